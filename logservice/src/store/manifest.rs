//! What a shard must remember besides its bytes: epochs, who leads, the base of the log, its snapshots. Replaced as a whole.

use serde::{Deserialize, Serialize};

use durability_protocol::{EngineVersion, SlotRanges};

use super::migrations::Migrations;

/// The newest version that this code reads. It writes the oldest that can express the manifest.
pub const MANIFEST_FORMAT: u32 = 4;
/// The first version with encrypted snapshots: an older build would send them to nodes as they are.
const ENCRYPTED_FORMAT: u32 = 2;
/// The first version with slots: an older build would forget them when it replaces the manifest.
const SLOTS_FORMAT: u32 = 3;
/// The first version with slots that move: an older build would forget who was granted them.
const MIGRATIONS_FORMAT: u32 = 4;

/// What a shard must remember besides its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this layout.
    pub format: u32,
    /// Goes up by one with each replacement.
    pub revision: u64,
    /// Name of the shard.
    pub shard: String,
    /// The epochs whose history the log continues, oldest first. Never empty: a new shard begins with epoch 0, which has no
    /// leader and a replication id of its own.
    pub epochs: Vec<Epoch>,
    /// Who leads; nobody before the first leader and after a release.
    pub leader: Option<Leader>,
    /// First position that the log holds, or its end when it is empty.
    pub base: u64,
    /// Goes up when the log is started anew ([`super::Store::restart`]), which sets it. What is stored of another generation is a left-over.
    pub generation: u64,
    /// Names this shard's snapshots among those of other services that keep theirs in the same place. Drawn at random.
    pub id: String,
    /// The snapshots, oldest first. Offsets ascend.
    pub snapshots: Vec<SnapshotRecord>,
    /// Whether a leader ever began to write.
    pub seeded: bool,
    /// What the shard is in a Valkey cluster; none until a leader has told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterSlots>,
}

/// What a shard is in a Valkey cluster, as a leader has set it last.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ClusterSlots {
    /// The config epoch of the shard's primary.
    pub config_epoch: u64,
    /// The slots that the shard serves.
    pub slots: SlotRanges,
    /// The id of that primary in the cluster; empty if it was not told.
    pub cluster_node_id: String,
    /// The epoch whose leader has set them.
    pub epoch: u64,
    /// Grows from one that this leader sets to the next; none if it did not count them.
    pub sent: Option<u64>,
    /// Slots that move between this shard and others.
    #[serde(default, skip_serializing_if = "Migrations::is_empty")]
    pub migrations: Migrations,
}

/// An epoch: who led, and under which replication id the log continues.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Epoch {
    /// Its number.
    pub epoch: u64,
    /// Who led.
    pub node_id: String,
    /// Its address.
    pub address: String,
    /// The replication id under which it wrote; none until it began.
    pub replid: Option<String>,
    /// Position of the first byte it wrote; none until it began.
    pub first_offset: Option<u64>,
    /// Version of the engine that wrote; none if the leader did not report it.
    pub engine: Option<EngineVersion>,
    /// How many databases the leader could write to; none if it did not report it.
    #[serde(default)]
    pub databases: Option<u32>,
}

/// The node that holds the lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leader {
    /// Its name.
    pub node_id: String,
    /// Where it is reached.
    pub address: String,
    /// Length of its lease in milliseconds; 0 does not expire.
    pub lease_ms: u64,
    /// Which process it is; none if it did not report it. See `durability_protocol::process`.
    #[serde(default)]
    pub process: Option<String>,
}

/// A snapshot: the whole data set at one position, as an RDB.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRecord {
    /// The stream continues here.
    pub offset: u64,
    /// Name of the file or object, below the place where snapshots are kept.
    pub file: String,
    /// Length of the RDB in bytes. What is stored is longer if it is encrypted.
    pub bytes: u64,
    /// CRC32C of what is stored.
    pub crc32c: u32,
    /// Checksums of the blocks of what is stored; none if an older build has stored it.
    #[serde(default)]
    pub blocks: Option<Blocks>,
    /// The replication id of the stream at that position.
    pub replid: String,
    /// Version of the engine that made it; none if unknown.
    pub engine: Option<EngineVersion>,
    /// When it was recorded, in milliseconds since 1970.
    pub time_ms: u64,
    /// What a rehearsal found in it; none for a seed, which the leader itself brought.
    pub contents: Option<Contents>,
    /// The id of the key with which it is encrypted; none if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encrypt_key: Option<String>,
}

/// The checksums of a snapshot's blocks: all are equally long, but for the last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocks {
    /// Length of a block in bytes.
    pub bytes: u64,
    /// CRC32C of each.
    pub crc32c: Vec<u32>,
}

impl Blocks {
    /// Whether a snapshot of `bytes` bytes has as many blocks as there are checksums.
    pub fn fit(&self, bytes: u64) -> bool {
        self.bytes > 0 && self.crc32c.len() as u64 == bytes.div_ceil(self.bytes)
    }
}

/// The contents of a server that has loaded a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// Keys in each database that has any, in order of the databases.
    pub keys: Vec<(u32, u64)>,
    /// `DEBUG DIGEST` of all of them.
    pub digest: String,
    /// Names of the modules' types that have values, or of what else a module has saved; in order. A server that loads the snapshot has to
    /// know them, or it ends.
    #[serde(default)]
    pub module_types: Vec<String>,
}

impl Manifest {
    /// The manifest of a shard that has never been written, under a replication id and an id drawn at random.
    pub fn new(shard: &str, replid: String, id: String) -> Self {
        let epoch_zero = Epoch {
            epoch: 0,
            node_id: String::new(),
            address: String::new(),
            replid: Some(replid),
            first_offset: Some(0),
            engine: None,
            databases: None,
        };
        Manifest {
            format: 1,
            revision: 0,
            shard: shard.to_owned(),
            epochs: vec![epoch_zero],
            leader: None,
            base: 0,
            generation: 0,
            id,
            snapshots: Vec::new(),
            seeded: false,
            cluster: None,
        }
    }

    /// Reads a manifest, refusing one that a newer version wrote or that contradicts itself.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let version: Version = serde_json::from_slice(bytes).map_err(|error| format!("not a manifest: {error}"))?;
        if version.format > MANIFEST_FORMAT {
            return Err(format!(
                "written by a newer version (format {}, this one reads up to {MANIFEST_FORMAT}): upgrade logservice",
                version.format
            ));
        }
        let manifest: Manifest = serde_json::from_slice(bytes).map_err(|error| format!("not a manifest: {error}"))?;
        if manifest.epochs.is_empty() || !manifest.epochs.windows(2).all(|pair| pair[0].epoch < pair[1].epoch) {
            return Err("its epochs are not in order".to_owned());
        }
        if manifest.epochs.iter().any(|entry| entry.replid.is_some() != entry.first_offset.is_some()) {
            return Err("an epoch has a replication id without a first offset, or the reverse".to_owned());
        }
        if !manifest.snapshots.windows(2).all(|pair| pair[0].offset < pair[1].offset) {
            return Err("its snapshots are not in order".to_owned());
        }
        Ok(manifest)
    }

    /// The version to be written.
    pub fn format_to_write(&self) -> u32 {
        let is_encrypted = self.snapshots.iter().any(|record| record.encrypt_key.is_some());
        match &self.cluster {
            Some(cluster) if !cluster.migrations.is_empty() => MIGRATIONS_FORMAT,
            Some(_) => SLOTS_FORMAT,
            None if is_encrypted => ENCRYPTED_FORMAT,
            None => 1,
        }
    }

    /// The newest snapshot.
    pub fn newest_snapshot(&self) -> Option<&SnapshotRecord> {
        self.snapshots.last()
    }

    /// Whether the log goes back to where it began without any data: to before its oldest snapshot.
    pub fn begins_empty(&self) -> bool {
        self.snapshots.first().is_none_or(|oldest| oldest.offset > self.base)
    }

    /// The newest version of the engine that wrote any of what the log holds.
    pub fn engine(&self) -> Option<EngineVersion> {
        let wrote = self.epochs.iter().filter(|entry| entry.replid.is_some()).filter_map(|entry| entry.engine);
        wrote.chain(self.snapshots.iter().filter_map(|record| record.engine)).max()
    }

    /// The most databases that any leader could write to who wrote a part of the log; none if no leader told.
    pub fn databases(&self) -> Option<u32> {
        self.epochs.iter().filter(|entry| entry.replid.is_some()).filter_map(|entry| entry.databases).max()
    }

    /// Where the leaders of the epochs begin to write.
    pub fn epoch_starts(&self) -> Vec<u64> {
        self.epochs.iter().filter_map(|entry| entry.first_offset).collect()
    }

    /// The next revision of this manifest, for its caller to change.
    pub fn next(&self) -> Self {
        let mut next = self.clone();
        next.revision += 1;
        next
    }

    /// The lowest end the log can have: a leader began there, so everything below was durable.
    pub fn least_end(&self) -> u64 {
        self.epochs.iter().filter_map(|entry| entry.first_offset).max().unwrap_or(0).max(self.base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{SlotGrant, SlotMove};

    #[test]
    fn survives_its_own_text_and_refuses_a_newer_one() {
        let manifest = Manifest::new("s1", "a".repeat(40), "b".repeat(16));
        let text = serde_json::to_vec(&manifest).expect("serialises");
        assert_eq!(Manifest::parse(&text), Ok(manifest));
        let newer = String::from_utf8(text).expect("text").replace("\"format\":1", "\"format\":5");
        assert!(Manifest::parse(newer.as_bytes()).expect_err("newer").contains("newer version"));
        assert!(Manifest::parse(b"{\"format\":1}").is_err());
        assert!(Manifest::parse(b"").is_err());
    }

    #[test]
    fn an_older_build_reads_it_until_there_are_slots() {
        let before = Manifest::new("s1", "a".repeat(40), "b".repeat(16));
        let text = serde_json::to_string(&before).expect("serialises");
        assert!(!text.contains("cluster") && before.format_to_write() == 1, "{text}");
        let slots = "0-5,7".parse().expect("slots");
        let after = Manifest { cluster: Some(ClusterSlots { slots, ..ClusterSlots::default() }), ..before };
        let after = Manifest { format: after.format_to_write(), ..after };
        assert_eq!(after.format, 3);
        let text = serde_json::to_string(&after).expect("serialises");
        assert_eq!(Manifest::parse(text.as_bytes()), Ok(after));
        let touching = text.replace("0-5,7", "0-5,6");
        assert!(Manifest::parse(touching.as_bytes()).expect_err("no slots").contains("does not fit"), "{touching}");
    }

    #[test]
    fn a_build_that_knows_slots_alone_reads_it_until_some_move() {
        let mut manifest = Manifest::new("s1", "a".repeat(40), "b".repeat(16));
        let before = ClusterSlots { slots: "0-5".parse().expect("slots"), ..ClusterSlots::default() };
        manifest.cluster = Some(before.clone());
        let text = serde_json::to_string(&manifest).expect("serialises");
        assert!(!text.contains("migrations") && manifest.format_to_write() == 3, "{text}");
        let moving = SlotMove { job: "1".repeat(40), slots: "7".parse().expect("slots"), shard: "s2".to_owned() };
        for migrations in [
            Migrations { grant: Some(SlotGrant { moving: moving.clone(), epoch: 3 }), ..Migrations::default() },
            Migrations { moved: vec![moving.clone()], ..Migrations::default() },
            Migrations { given: moving.slots.clone(), ..Migrations::default() },
            Migrations { imports: vec![moving.clone()], ..Migrations::default() },
            Migrations { ended: vec![moving.job.clone()], ..Migrations::default() },
        ] {
            let cluster = Some(ClusterSlots { migrations, ..before.clone() });
            let after = Manifest { format: 4, cluster, ..manifest.clone() };
            assert_eq!(after.format_to_write(), 4, "{after:?}");
            let text = serde_json::to_string(&after).expect("serialises");
            assert_eq!(Manifest::parse(text.as_bytes()), Ok(after));
        }
    }

    #[test]
    fn any_text_is_a_manifest_that_survives_its_own_text_or_none() {
        let leader = Leader { node_id: "n1".to_owned(), address: "a:1".to_owned(), lease_ms: 1, process: None };
        let mut sound = Manifest { leader: Some(leader), ..Manifest::new("s1", "a".repeat(40), "b".repeat(16)) };
        let (file, replid) = ("0.rdb".to_owned(), "a".repeat(40));
        let contents = Some(Contents { keys: vec![(0, 1)], digest: "c".repeat(40), module_types: vec!["d".repeat(9)] });
        let engine = "9.1.2".parse().ok();
        let blocks = Some(Blocks { bytes: 1 << 20, crc32c: vec![3] });
        let encrypt_key = Some("k1".to_owned());
        sound.snapshots = vec![SnapshotRecord {
            offset: 1,
            file,
            bytes: 2,
            crc32c: 3,
            blocks,
            replid,
            engine,
            time_ms: 4,
            contents,
            encrypt_key,
        }];
        let slots = "0-5460,7000".parse().expect("slots");
        let cluster_node_id = "e".repeat(40);
        let moving = SlotMove { job: "1".repeat(40), slots: "7".parse().expect("slots"), shard: "s2".to_owned() };
        let migrations = Migrations {
            grant: Some(SlotGrant { moving: moving.clone(), epoch: 3 }),
            moved: vec![moving.clone()],
            given: moving.slots.clone(),
            imports: vec![moving],
            ended: vec!["2".repeat(40)],
        };
        sound.cluster =
            Some(ClusterSlots { config_epoch: 9, slots, cluster_node_id, epoch: 3, sent: Some(4), migrations });
        let sound = serde_json::to_vec(&sound).expect("serialises");
        // Either any bytes, or those of a sound one with some of them changed.
        bolero::check!().with_type::<(bool, Vec<(u16, u8)>, Vec<u8>)>().for_each(|(is_any, changes, bytes)| {
            let mut text = if *is_any { bytes.clone() } else { sound.clone() };
            let length = text.len();
            for (at, byte) in changes.iter().filter(|_| length > 0) {
                text[usize::from(*at) % length] = *byte;
            }
            allocation::within(64 * text.len() + 4096, || {
                if let Ok(manifest) = Manifest::parse(&text) {
                    assert!(!manifest.epochs.is_empty() && manifest.least_end() >= manifest.base);
                    let again = serde_json::to_vec(&manifest).expect("serialises");
                    assert_eq!(Manifest::parse(&again), Ok(manifest));
                }
            });
        });
    }
}
