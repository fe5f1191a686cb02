//! Functions of the server's cluster that it exports to modules only by accident. Mirrors Valkey 9.1.

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

use libloading::os::unix::Library;

use crate::server::cluster::node::Node;

type Action = unsafe extern "C" fn();
/// `client`, never looked into.
pub type ForeignClient = c_void;
type ClientFunction = unsafe extern "C" fn(*mut ForeignClient);
type NodesFunction = unsafe extern "C" fn(*mut Node, *mut Node) -> c_int;

/// See the module's documentation.
pub struct Functions {
    /// `myself`: where the pointer to this node stands.
    pub myself: *const *mut Node,
    /// `server`, in which the pointer to the cluster's state stands somewhere.
    pub server: *const c_void,
    /// `replicationSetPrimary`.
    pub set_primary: unsafe extern "C" fn(*const c_char, c_int, c_int, bool),
    /// `replicationUnsetPrimary`.
    pub unset_primary: Action,
    /// `clusterSetNodeAsPrimary`.
    pub set_node_as_primary: unsafe extern "C" fn(*mut Node),
    /// `clusterAddSlot`.
    pub add_slot: unsafe extern "C" fn(*mut Node, c_int) -> c_int,
    /// `clusterDelSlot`.
    pub delete_slot: unsafe extern "C" fn(c_int) -> c_int,
    /// `getNodeBySlot`.
    pub node_by_slot: unsafe extern "C" fn(c_int) -> *mut Node,
    /// `clusterLookupNode`.
    pub lookup_node: unsafe extern "C" fn(*const c_char, c_int) -> *mut Node,
    /// `clusterNodeAddReplica`.
    pub add_replica: NodesFunction,
    /// `clusterNodeRemoveReplica`.
    pub remove_replica: NodesFunction,
    /// `clusterAddNodeToShard`.
    pub add_to_shard: unsafe extern "C" fn(*const c_char, *mut Node),
    /// `clusterRemoveNodeFromShard`.
    pub remove_from_shard: unsafe extern "C" fn(*mut Node),
    /// `clusterGetMaxEpoch`.
    pub greatest_epoch: unsafe extern "C" fn() -> u64,
    /// `clusterUpdateState`.
    pub update_state: Action,
    /// `clusterDoBeforeSleep`.
    pub do_before_sleep: unsafe extern "C" fn(c_int),
    /// `resetManualFailover`.
    pub reset_manual_failover: Action,
    /// `clearCachedClusterSlotsResponse`.
    pub forget_slots_answer: Action,
    /// `delKeysInSlot`: slot, whether memory is freed in the background, whether the deletions go into the stream, and whether clients hear.
    pub delete_keys: unsafe extern "C" fn(c_uint, c_int, bool, bool) -> c_uint,
    /// `lookupClientByID`.
    pub client_by_id: unsafe extern "C" fn(u64) -> *mut ForeignClient,
    /// `clusterCommandSyncSlotsRequestPause`.
    pub request_pause: ClientFunction,
    /// `clusterCommandSyncSlotsPaused`.
    pub paused: ClientFunction,
    /// `clusterCommandSyncSlotsRequestFailover`.
    pub request_failover: ClientFunction,
    /// `pauseActions`: why, until when in milliseconds since 1970, and what.
    pub pause_actions: unsafe extern "C" fn(c_int, i64, u32),
    /// `unpauseActions`.
    pub unpause_actions: unsafe extern "C" fn(c_int),
    /// `clusterReadHandler`: the handler of every link of the cluster's bus.
    pub read_bus_link: *const c_void,
    /// `clusterLinkConnectHandler`: what is called when a link of the bus to another node is connected.
    pub bus_link_connected: *const c_void,
}

// SAFETY: the pointers lead into statics of the server; what is behind them is used on the main thread only.
unsafe impl Send for Functions {}
// SAFETY: as above.
unsafe impl Sync for Functions {}

static CLUSTER_FUNCTIONS: OnceLock<Result<Functions, String>> = OnceLock::new();

impl Functions {
    /// The running server's; resolved once.
    ///
    /// # Errors
    /// The first of them that the server does not export.
    pub fn get() -> Result<&'static Functions, &'static str> {
        CLUSTER_FUNCTIONS.get_or_init(Functions::resolve).as_ref().map_err(String::as_str)
    }

    fn resolve() -> Result<Functions, String> {
        let server = Library::this();
        fn symbol<T: Copy>(server: &Library, name: &str) -> Result<T, String> {
            // SAFETY: each T above is the type of that function or variable in the 9.1 source; version and layout are checked before any of
            // them is used.
            match unsafe { server.get::<T>(name.as_bytes()) } {
                Ok(found) => Ok(*found),
                Err(_) => Err(format!("this valkey-server does not export {name}")),
            }
        }
        Ok(Functions {
            myself: symbol(&server, "myself")?,
            server: symbol(&server, "server")?,
            set_primary: symbol(&server, "replicationSetPrimary")?,
            unset_primary: symbol(&server, "replicationUnsetPrimary")?,
            set_node_as_primary: symbol(&server, "clusterSetNodeAsPrimary")?,
            add_slot: symbol(&server, "clusterAddSlot")?,
            delete_slot: symbol(&server, "clusterDelSlot")?,
            node_by_slot: symbol(&server, "getNodeBySlot")?,
            lookup_node: symbol(&server, "clusterLookupNode")?,
            add_replica: symbol(&server, "clusterNodeAddReplica")?,
            remove_replica: symbol(&server, "clusterNodeRemoveReplica")?,
            add_to_shard: symbol(&server, "clusterAddNodeToShard")?,
            remove_from_shard: symbol(&server, "clusterRemoveNodeFromShard")?,
            greatest_epoch: symbol(&server, "clusterGetMaxEpoch")?,
            update_state: symbol(&server, "clusterUpdateState")?,
            do_before_sleep: symbol(&server, "clusterDoBeforeSleep")?,
            reset_manual_failover: symbol(&server, "resetManualFailover")?,
            forget_slots_answer: symbol(&server, "clearCachedClusterSlotsResponse")?,
            delete_keys: symbol(&server, "delKeysInSlot")?,
            client_by_id: symbol(&server, "lookupClientByID")?,
            request_pause: symbol(&server, "clusterCommandSyncSlotsRequestPause")?,
            paused: symbol(&server, "clusterCommandSyncSlotsPaused")?,
            request_failover: symbol(&server, "clusterCommandSyncSlotsRequestFailover")?,
            pause_actions: symbol(&server, "pauseActions")?,
            unpause_actions: symbol(&server, "unpauseActions")?,
            read_bus_link: symbol(&server, "clusterReadHandler")?,
            bus_link_connected: symbol(&server, "clusterLinkConnectHandler")?,
        })
    }
}
