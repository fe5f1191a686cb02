//! Proves that the copy of one service is whole: everything is stopped, the disks of the two others are thrown away, and all shards come back
//! from what the one has.
//!
//! Consensus takes two of three, so the two get what is on the disk of the one, under the ids that they had. Nothing of their own is left: all
//! that is found then was on that disk. It is not how a lost service is replaced, and no operator may do it: a service that has forgotten its
//! votes must not vote. Here all three forget at the same moment, while nobody runs.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{ensure, Context, Result};

use crate::system::System;

/// Who a service is, in its directory.
const IDENTITY: &str = "SERVICE";

/// Has all shards go on with the disk of that service alone. What the nodes hold then is to have the digest that they have now.
///
/// # Errors
/// It does not come back, or holds something else.
pub fn keep_only(system: &mut System, survivor: usize, timeout: Duration) -> Result<()> {
    system.shards.iter().try_for_each(|shard| shard.wait_until_shipped(timeout))?;
    system.services.wait_until_well(0, timeout)?;
    let before = system.wait_until_equal(timeout)?;
    system.kill_nodes()?;
    let services = &mut system.services;
    services.kill_all()?;
    let kept = services.list[survivor].directory.clone();
    for (number, service) in services.list.iter().enumerate().filter(|(number, _)| *number != survivor) {
        let identity = fs::read(service.directory.join(IDENTITY)).with_context(|| format!("who log{number} is"))?;
        fs::remove_dir_all(&service.directory)?;
        copy(&kept, &service.directory).with_context(|| format!("the disk of log{survivor} for log{number}"))?;
        fs::write(service.directory.join(IDENTITY), identity)?;
    }
    services.start_all()?;
    system.start_nodes()?;
    let alone = || format!("with the disk of log{survivor} alone");
    system.wait_until_whole(timeout).with_context(alone)?;
    let after = system.wait_until_equal(timeout).with_context(alone)?;
    ensure!(after == before, "{} the nodes hold {after:?}, and before that {before:?}", alone());
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
