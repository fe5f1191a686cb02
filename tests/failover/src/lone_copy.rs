//! Proves that the copy of one service is whole: everything is stopped, the disks of the two others are thrown away, and the shard comes back
//! from what the one has.
//!
//! Consensus takes two of three, so the two get what is on the disk of the one, under the ids that they had. Nothing of their own is left: all
//! that is found then was on that disk. It is not how a lost service is replaced, and no operator may do it: a service that has forgotten its
//! votes must not vote. Here all three forget at the same moment, while nobody runs.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{ensure, Context, Result};

use crate::shard::{Shard, NODES};

/// Who a service is, in its directory.
const IDENTITY: &str = "SERVICE";

/// Has the shard go on with the disk of that service alone. What the nodes hold then is to have the digest that they have now.
///
/// # Errors
/// It does not come back, or holds something else.
pub fn keep_only(shard: &mut Shard, survivor: usize, timeout: Duration) -> Result<()> {
    shard.wait_until_shipped(timeout)?;
    shard.services.wait_until_well(timeout)?;
    let before = shard.wait_until_equal(timeout)?;
    (0..NODES).try_for_each(|node| shard.kill_node(node))?;
    let services = &mut shard.services;
    services.kill_all()?;
    let kept = services.list[survivor].directory.clone();
    for (number, service) in services.list.iter().enumerate().filter(|(number, _)| *number != survivor) {
        let identity = fs::read(service.directory.join(IDENTITY)).with_context(|| format!("who log{number} is"))?;
        fs::remove_dir_all(&service.directory)?;
        copy(&kept, &service.directory).with_context(|| format!("the disk of log{survivor} for log{number}"))?;
        fs::write(service.directory.join(IDENTITY), identity)?;
    }
    services.start_all()?;
    (0..NODES).try_for_each(|node| shard.start_node(node))?;
    let alone = || format!("with the disk of log{survivor} alone");
    shard.wait_until_whole(timeout).with_context(alone)?;
    let after = shard.wait_until_equal(timeout).with_context(alone)?;
    ensure!(after == before, "{} the nodes hold {after}, and before that {before}", alone());
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy(&source, &target)?;
        } else {
            fs::copy(&source, &target).with_context(|| source.display().to_string())?;
        }
    }
    Ok(())
}
