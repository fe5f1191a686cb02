//! A leader that serves nobody for a while, and then goes on in the same epoch: its lease has passed and is renewed, or a planned failover has
//! begun and is given up.

use super::leader::{Deeds, Leader, Phase, Standing};
use super::search::Rules;

impl Leader {
    /// Whether it has come to lead, so that its standing may change. What a new leader finds is looked at first.
    fn has_begun(&self) -> bool {
        let begins = matches!(
            self.phase,
            Phase::Found { .. } | Phase::Voiding(_) | Phase::Settling(_) | Phase::Claiming { ends: None, .. }
        );
        self.serves() && !begins
    }

    /// Whether it, as the source, may have lost the slot.
    fn has_granted(&self) -> bool {
        matches!(self.phase, Phase::Granting { .. } | Phase::Granted(_) | Phase::Deciding(_))
    }

    /// Whether the slot may be the shard's by an import that is not settled.
    fn has_open_import(&self) -> bool {
        use Phase::{Claiming, Dropping, Intending, Taking};
        matches!(self.phase, Intending(_) | Taking(_) | Dropping(_) | Claiming { ends: Some(_), .. })
    }

    /// Its lease passes. None if it does not serve.
    pub fn suspend(&mut self, rules: &Rules) -> Option<Deeds> {
        if !self.has_begun() {
            return None;
        }
        self.standing = Standing::Suspended;
        // Its clients are gone, so that its server gives up migrations of which nothing is decided, and deletes what came by them.
        let deletes = matches!(self.phase, Phase::Imported { .. } | Phase::Requested(_));
        self.phase = match self.phase {
            Phase::Granting { job, .. } | Phase::Granted(job) | Phase::Deciding(job) if rules.asks_when_resumed => {
                Phase::Deciding(job)
            }
            open if self.has_open_import() && rules.remembers_imports => open,
            _ => Phase::Idle,
        };
        Some(Deeds { deletes, ..Deeds::default() })
    }

    /// A planned failover begins. It ends migrations of which nothing is decided. False if it does not begin.
    pub fn begin_to_hand_over(&mut self, rules: &Rules) -> bool {
        let is_deciding = self.has_granted() || self.has_open_import();
        if !self.has_begun() || is_deciding && rules.decides_before_handover {
            return false;
        }
        (self.standing, self.phase) = (Standing::HandsOver, Phase::Idle);
        true
    }

    /// It serves again, and asks again what it was asking. Keys of slots that are not its shard's are deleted.
    pub fn resume(&mut self, rules: &Rules) -> Deeds {
        self.standing = Standing::Serves;
        let keeps = self.has_slot || self.has_open_import() && rules.keeps_keys_of_imports;
        Deeds { sends: self.resend().into_iter().collect(), deletes: !keeps, ..Deeds::default() }
    }
}
