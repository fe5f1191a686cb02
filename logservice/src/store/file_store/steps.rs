//! The steps on files, by name. A test that is built with the feature `failpoints` makes them fail under these names.

macro_rules! steps {
    ($($(#[$doc:meta])* $step:ident = $name:literal,)*) => {
        /// A step of the store that changes files, or makes a change durable.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Step {
            $($(#[$doc])* $step,)*
        }

        impl Step {
            /// Every step.
            pub const ALL: &[Step] = &[$(Step::$step,)*];

            /// The name of its failpoint.
            pub fn name(self) -> &'static str {
                match self {
                    $(Step::$step => $name,)*
                }
            }
        }
    };
}

steps! {
    /// A record is written.
    RecordWrite = "record-write",
    /// A record is synced.
    RecordSync = "record-sync",

    /// A segment for which no spare was ready is created.
    SegmentCreate = "segment-create",
    /// Space is taken for it.
    SegmentAllocate = "segment-allocate",
    /// The header of a new segment is written.
    SegmentHeaderWrite = "segment-header-write",
    /// It is synced.
    SegmentHeaderSync = "segment-header-sync",
    /// A new segment gets its name.
    SegmentRename = "segment-rename",
    /// The directory is synced after that.
    SegmentDirectorySync = "segment-directory-sync",
    /// A file that was to become a segment, and could not, is removed.
    UnnamedRemove = "unnamed-remove",

    /// A spare is created.
    SpareCreate = "spare-create",
    /// Zeros are written to it.
    SpareWrite = "spare-write",
    /// They are synced.
    SpareSync = "spare-sync",
    /// A segment that is not needed any more becomes a spare.
    SegmentRecycle = "segment-recycle",
    /// A segment that is not needed any more is removed.
    SegmentRemove = "segment-remove",

    /// A new manifest is created beside the old one.
    ManifestCreate = "manifest-create",
    /// It is written.
    ManifestWrite = "manifest-write",
    /// It is synced.
    ManifestSync = "manifest-sync",
    /// It takes the old one's name.
    ManifestRename = "manifest-rename",
    /// The directory is synced after that.
    ManifestDirectorySync = "manifest-directory-sync",
    /// A new manifest that could not be written is removed.
    ManifestRemove = "manifest-remove",

    /// The directories of a shard are created when it is opened.
    OpenCreate = "open-create",
    /// What a crash left over is removed when a shard is opened.
    OpenRemove = "open-remove",
    /// Directories are synced when a shard is opened.
    OpenDirectorySync = "open-directory-sync",
    /// A torn tail is cut.
    CutWrite = "cut-write",
    /// It is synced.
    CutSync = "cut-sync",
    /// The directory of a shard that is dropped gets another name.
    DropRename = "drop-rename",
    /// The directory of all shards is synced after that.
    DropDirectorySync = "drop-directory-sync",
    /// A file of a shard that was dropped is removed.
    DropRemove = "drop-remove",

    /// The directory is created for shards that several services keep by now.
    AsideCreate = "aside-create",
    /// The directory of such a shard is moved there.
    AsideRename = "aside-rename",
    /// The directories are synced before and after that.
    AsideDirectorySync = "aside-directory-sync",

    /// The file with the vote of a copy is created.
    VoteCreate = "vote-create",
    /// A vote is written.
    VoteWrite = "vote-write",
    /// It is synced.
    VoteSync = "vote-sync",
    /// A new copy of a log that several services keep gets its name.
    CopyRename = "copy-rename",
    /// The directory of all copies is synced after that.
    CopyDirectorySync = "copy-directory-sync",

    /// The last record is written again.
    LastRecordWrite = "last-record-write",
    /// It is synced.
    LastRecordSync = "last-record-sync",
}
