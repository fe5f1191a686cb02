//! Whether the insides of the server's cluster are the ones that this module knows: they are compared with what the server says of itself.
//! Main thread.

use std::ffi::c_int;
use std::sync::OnceLock;

use valkey_module::{CallReply, Context};

use crate::server::api;
use crate::server::cluster::functions::Functions;
use crate::server::cluster::node::{Node, State, FAIL_MINORITY, ID_BYTES, MYSELF, PRIMARY, REPLICA, STATE_OK};
use crate::server::foreign_memory::read_foreign;

/// How far into `server` the pointer to the cluster's state is looked for, in words.
const SERVER_WORDS: usize = 16 << 10;

/// Where the cluster's state stands.
pub struct Layout {
    /// In the server's memory, for as long as it runs.
    pub state: *mut State,
}

// SAFETY: what is behind the pointer is used on the main thread only.
unsafe impl Send for Layout {}
// SAFETY: as above.
unsafe impl Sync for Layout {}

static LAYOUT: OnceLock<Result<Layout, String>> = OnceLock::new();

/// The server's cluster, compared once.
///
/// # Errors
/// What is different.
pub fn verified(ctx: &Context) -> Result<&'static Layout, String> {
    let functions = Functions::get()?;
    LAYOUT.get_or_init(|| compare(ctx, functions)).as_ref().map_err(Clone::clone)
}

/// As [`verified`], where it has been compared; `None` before, and where something is different. Any thread.
pub fn found() -> Option<&'static Layout> {
    LAYOUT.get()?.as_ref().ok()
}

fn compare(ctx: &Context, functions: &Functions) -> Result<Layout, String> {
    let different = |what: &str| format!("the cluster's {what} is not where Valkey 9.1 has it");
    let node: *mut Node = read_foreign(functions.myself.cast::<usize>())
        .map_or(std::ptr::null_mut(), std::ptr::with_exposed_provenance_mut);
    let id = text(ctx, "MYID")?;
    let shard_id = text(ctx, "MYSHARDID")?;
    let (name_at, shard_at) = (std::mem::offset_of!(Node, name), std::mem::offset_of!(Node, shard_id));
    if read_id(node, name_at) != Some(id) {
        return Err(different("own id"));
    }
    if read_id(node, shard_at) != Some(shard_id) {
        return Err(different("id of the shard"));
    }
    let flags: c_int = field(node, std::mem::offset_of!(Node, flags)).ok_or_else(|| different("flags of a node"))?;
    let is_one_of_both = (flags & PRIMARY != 0) != (flags & REPLICA != 0);
    if flags & MYSELF == 0 || !is_one_of_both {
        return Err(different("flags of a node"));
    }
    let info = text(ctx, "INFO")?;
    let number = |name: &str| {
        info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse::<u64>().ok())
    };
    let config_epoch: Option<u64> = field(node, std::mem::offset_of!(Node, config_epoch));
    if flags & PRIMARY != 0 && config_epoch != number("cluster_my_epoch") {
        return Err(different("config epoch"));
    }
    let slots_at = std::mem::offset_of!(Node, slots);
    let words = (0..256).map(|word| field::<u64>(node, slots_at + word * 8).map(u64::count_ones)).sum::<Option<u32>>();
    let count: Option<c_int> = field(node, std::mem::offset_of!(Node, slot_count));
    if words.is_none() || words.map(|count| count as c_int) != count {
        return Err(different("table of slots"));
    }
    if flags & REPLICA != 0 {
        check_primary(ctx, node).ok_or_else(|| different("primary of a replica"))?;
    }
    let current_epoch = number("cluster_current_epoch").ok_or("CLUSTER INFO tells no cluster_current_epoch")?;
    let state = find_state(functions, node, current_epoch).ok_or_else(|| different("state"))?;
    let number_of = |offset| read_foreign(state.cast_const().cast::<c_int>().wrapping_byte_add(offset));
    let is_ok = info.lines().any(|line| line.trim() == "cluster_state:ok");
    let size = number("cluster_size").ok_or("CLUSTER INFO tells no cluster_size")?;
    let is_known_state = number_of(std::mem::offset_of!(State, state)).map(|state| state == STATE_OK) == Some(is_ok)
        && number_of(std::mem::offset_of!(State, fail_reason)).is_some_and(|why| (0..=FAIL_MINORITY).contains(&why))
        && number_of(std::mem::offset_of!(State, size)).map(i64::from) == i64::try_from(size).ok();
    if !is_known_state {
        return Err(different("state"));
    }
    Ok(Layout { state })
}

/// What the server says to that subcommand of CLUSTER, without spaces around it.
fn text(ctx: &Context, subcommand: &str) -> Result<String, String> {
    let text = match api::call(ctx, "CLUSTER", &[subcommand])? {
        CallReply::String(text) => text.to_string(),
        CallReply::VerbatimString(text) => text.as_parts().map(|(_, text)| String::from_utf8_lossy(text).into_owned()),
        _ => None,
    };
    text.map(|text| text.trim().to_owned()).ok_or_else(|| format!("CLUSTER {subcommand} answered no text"))
}

fn field<T: Copy + Default>(node: *const Node, offset: usize) -> Option<T> {
    (!node.is_null()).then(|| read_foreign(node.cast::<T>().wrapping_byte_add(offset)))?
}

fn read_id(node: *const Node, offset: usize) -> Option<String> {
    let words = (0..ID_BYTES / 8).map(|word| field::<[u8; 8]>(node, offset + word * 8)).collect::<Option<Vec<_>>>()?;
    String::from_utf8(words.concat()).ok()
}

/// Whether the node points to the primary that the server names as its own; a replica may not know it yet.
fn check_primary(ctx: &Context, node: *const Node) -> Option<()> {
    let nodes = text(ctx, "NODES").ok()?;
    let own = nodes
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|fields| fields.get(2).is_some_and(|flags| flags.split(',').any(|flag| flag == "myself")))?;
    let primary: usize = field(node, std::mem::offset_of!(Node, replica_of))?;
    let named = *own.get(3)?;
    if named == "-" {
        return (primary == 0).then_some(());
    }
    let primary = std::ptr::with_exposed_provenance::<Node>(primary);
    (read_id(primary, std::mem::offset_of!(Node, name)).as_deref() == Some(named)).then_some(())
}

/// The one place in `server` that points to something which points to this node, before the newest epoch.
fn find_state(functions: &Functions, node: *const Node, current_epoch: u64) -> Option<*mut State> {
    const AT_ONCE: usize = 32;
    let blocks = functions.server.cast::<[usize; AT_ONCE]>();
    let words = (0..SERVER_WORDS / AT_ONCE).map_while(|at| read_foreign(blocks.wrapping_add(at))).flatten();
    let is_state = |address: &usize| {
        if *address == 0 || !address.is_multiple_of(align_of::<State>()) {
            return false;
        }
        let state = std::ptr::with_exposed_provenance::<usize>(*address);
        read_foreign(state) == Some(node.expose_provenance())
            && read_foreign(state.wrapping_add(1)).map(|epoch| epoch as u64) == Some(current_epoch)
    };
    let mut found: Vec<usize> = words.filter(is_state).collect();
    found.sort_unstable();
    found.dedup();
    match found[..] {
        [state] => Some(std::ptr::with_exposed_provenance_mut(state)),
        _ => None,
    }
}
