//! How much of which trouble a seed sees. Each seed has some of it, so that what needs quiet in other respects is found as well.

use durability_simulation::draw::Draw;

/// Weights are against those of ordinary steps.
#[derive(Debug, Clone)]
pub struct Profile {
    /// A thousandth part of messages that is lost.
    pub lost: u32,
    /// A thousandth part of messages that arrives twice.
    pub doubled: u32,
    /// A thousandth part of messages that overtakes others.
    pub reordered: u32,
    /// A thousandth part of what happens to a copy of which the next thing happens before its work is done.
    pub gathered: u32,
    /// Weight of time.
    pub ticks: u32,
    /// Weight of much time at one service.
    pub rushes: u32,
    /// Weight of a crash.
    pub crashes: u32,
    /// Weight of a pause.
    pub pauses: u32,
    /// Weight of a cut.
    pub cuts: u32,
    /// Weight of a connection that breaks.
    pub breaks: u32,
    /// Weight of a disk that becomes slow, or fast again.
    pub slow_disks: u32,
    /// Weight of a trim.
    pub trims: u32,
    /// Weight of a transfer of leadership.
    pub transfers: u32,
    /// Weight of a copy that asks for votes at once.
    pub campaigns: u32,
    /// Weight of what clients do.
    pub clients: u32,
    /// A thousandth part of what clients do that is out of place.
    pub stale: u32,
    /// A thousandth part of what clients do that replaces the state.
    pub changes: u32,
    /// A thousandth part of what clients do that asks for confirmation.
    pub questions: u32,
    /// Bytes of entries that a copy keeps in memory.
    pub cached_bytes: usize,
    /// What no append is as long as.
    pub append_bytes: u64,
    /// Weight of a copy that is damaged and begins anew.
    pub damages: u32,
}

impl Profile {
    /// What the seed of `draw` sees.
    pub fn draw(draw: &mut Draw) -> Self {
        // Each kind of trouble is there in some seeds, and rare or frequent then.
        let mut some = |weights: &[u32]| draw.pick(weights);
        Profile {
            lost: some(&[0, 0, 20, 100, 250]),
            doubled: some(&[0, 0, 50]),
            reordered: some(&[0, 0, 100, 300]),
            gathered: some(&[0, 100, 500]),
            ticks: some(&[4, 8, 8, 16]),
            rushes: some(&[0, 0, 1, 3]),
            crashes: some(&[0, 1, 1, 3]),
            pauses: some(&[0, 1, 2]),
            cuts: some(&[0, 0, 1, 3]),
            breaks: some(&[0, 0, 1, 2]),
            slow_disks: some(&[0, 1, 2]),
            trims: some(&[0, 0, 2, 6]),
            transfers: some(&[0, 0, 1, 2]),
            campaigns: some(&[0, 0, 1]),
            clients: some(&[4, 12]),
            stale: some(&[0, 30, 100]),
            changes: some(&[10, 60, 150]),
            questions: some(&[50, 200]),
            cached_bytes: some(&[0, 100, 1 << 24]) as usize,
            append_bytes: 40,
            damages: some(&[0, 0, 1, 3]),
        }
    }

    /// All is well from now on.
    pub fn calm(&self) -> Self {
        Profile { lost: 0, doubled: 0, reordered: 0, gathered: 0, stale: 0, changes: 0, questions: 0, ..self.clone() }
    }
}
