//! Functions of the server that it exports to modules only by accident. Mirrors Valkey 9.1.
//!
//! The self-test (`agent/self_test.rs`) sees them work in the running server before anything relies on them.

use std::ffi::{c_int, c_longlong, c_ulong, c_void};
use std::os::fd::{IntoRawFd, OwnedFd};
use std::sync::OnceLock;

use libloading::os::unix::Library;
use valkey_module::raw;

use crate::server::leaving_slots::LeavingSlots;
use crate::server::stream_queue::{StreamQueue, PROPAGATE_ALL};
use crate::server::structs::{Client, Connection, ConnectionType, KeyValue};

type TypeFunction = unsafe extern "C" fn() -> *mut ConnectionType;
type LookupFunction = unsafe extern "C" fn(u64) -> *mut Client;
type ClientFunction = unsafe extern "C" fn(*mut Client);
/// `writeToClient` and `clientHasPendingReplies`.
type ClientResultFunction = unsafe extern "C" fn(*mut Client) -> c_int;
type OffsetFunction = unsafe extern "C" fn() -> c_longlong;
type ActionFunction = unsafe extern "C" fn();
type CreateClientFunction = unsafe extern "C" fn(*mut Connection) -> *mut Client;
/// `getExpirationPolicyWithFlags`.
type PolicyFunction = unsafe extern "C" fn(c_int) -> c_int;
type ValueFunction = unsafe extern "C" fn(*mut c_void) -> bool;
type ReclaimFunction = unsafe extern "C" fn(*mut c_void, *mut c_void, c_longlong, c_ulong, c_int) -> usize;
type FlagFunction = unsafe extern "C" fn() -> c_int;
type PropagateFunction = unsafe extern "C" fn(c_int, *mut *mut raw::RedisModuleString, c_int, c_int, c_int);

/// See the module's documentation.
pub struct Internals {
    connection_type_tcp: TypeFunction,
    connection_type_tls: TypeFunction,
    connection_type_unix: TypeFunction,
    lookup_client_by_id: LookupFunction,
    put_client_in_pending_write_queue: ClientFunction,
    free_client_async: ClientFunction,
    client_has_pending_replies: ClientResultFunction,
    write_to_client: ClientResultFunction,
    get_psync_initial_offset: OffsetFunction,
    create_replication_backlog: ActionFunction,
    create_client: CreateClientFunction,
    get_expiration_policy: PolicyFunction,
    script_is_running: FlagFunction,
    also_propagate: PropagateFunction,
    prevent_command_propagation: ClientFunction,
    post_execution_unit_operations: ActionFunction,
    hash_type_has_volatile_fields: ValueFunction,
    db_reclaim_expired_fields: ReclaimFunction,
    events_while_blocked: *const c_int,
    queue: StreamQueue,
    /// What slots that leave need to know of what the module puts into the stream.
    pub leaving_slots: LeavingSlots,
}

// SAFETY: the pointers lead into statics of the server; what is behind them is read on the main thread only.
unsafe impl Send for Internals {}
// SAFETY: as above.
unsafe impl Sync for Internals {}

static INTERNALS: OnceLock<Result<Internals, String>> = OnceLock::new();

impl Internals {
    /// The running server's; resolved once.
    ///
    /// # Errors
    /// The name of the first symbol that the server does not export.
    pub fn get() -> Result<&'static Internals, &'static str> {
        INTERNALS.get_or_init(Internals::resolve).as_ref().map_err(String::as_str)
    }

    fn resolve() -> Result<Internals, String> {
        let server = Library::this();
        fn symbol<T: Copy>(server: &Library, name: &str) -> Result<T, String> {
            // SAFETY: each T below is the type of that function in the 9.1 source; the version is checked before sync
            // mode uses any of them, and the self-test exercises them.
            match unsafe { server.get::<T>(name.as_bytes()) } {
                Ok(found) => Ok(*found),
                Err(_) => Err(format!("this valkey-server does not export the function {name}")),
            }
        }
        Ok(Internals {
            connection_type_tcp: symbol(&server, "connectionTypeTcp")?,
            connection_type_tls: symbol(&server, "connectionTypeTls")?,
            connection_type_unix: symbol(&server, "connectionTypeUnix")?,
            lookup_client_by_id: symbol(&server, "lookupClientByID")?,
            put_client_in_pending_write_queue: symbol(&server, "putClientInPendingWriteQueue")?,
            free_client_async: symbol(&server, "freeClientAsync")?,
            client_has_pending_replies: symbol(&server, "clientHasPendingReplies")?,
            write_to_client: symbol(&server, "writeToClient")?,
            get_psync_initial_offset: symbol(&server, "getPsyncInitialOffset")?,
            create_replication_backlog: symbol(&server, "createReplicationBacklog")?,
            create_client: symbol(&server, "createClient")?,
            get_expiration_policy: symbol(&server, "getExpirationPolicyWithFlags")?,
            script_is_running: symbol(&server, "scriptIsRunning")?,
            also_propagate: symbol(&server, "alsoPropagate")?,
            prevent_command_propagation: symbol(&server, "preventCommandPropagation")?,
            post_execution_unit_operations: symbol(&server, "postExecutionUnitOperations")?,
            hash_type_has_volatile_fields: symbol(&server, "hashTypeHasVolatileFields")?,
            db_reclaim_expired_fields: symbol(&server, "dbReclaimExpiredFields")?,
            events_while_blocked: symbol(&server, "ProcessingEventsWhileBlocked")?,
            queue: StreamQueue::new(symbol(&server, "server")?),
            leaving_slots: LeavingSlots {
                is_any_leaving: symbol(&server, "clusterIsAnySlotExporting")?,
                lookup_command: symbol(&server, "lookupCommand")?,
                slot_by_command: symbol(&server, "clusterSlotByCommand")?,
                key_hash_slot: symbol(&server, "keyHashSlot")?,
                fail_all: symbol(&server, "clusterFailAllSlotExportsWithMessage")?,
            },
        })
    }

    /// The live tables of TCP, TLS and unix-socket connections; null for a type that this server does not have.
    /// Unix-socket connections write through the table of TCP.
    pub fn types(&self) -> [*mut ConnectionType; 3] {
        // SAFETY: each returns a pointer to a static, or null.
        unsafe { [(self.connection_type_tcp)(), (self.connection_type_tls)(), (self.connection_type_unix)()] }
    }

    /// The client with that id, if there is one among those with a connection. Main thread only.
    pub fn lookup_client(&self, id: u64) -> Option<*mut Client> {
        // SAFETY: looks into an index that only the main thread changes.
        let client = unsafe { (self.lookup_client_by_id)(id) };
        (!client.is_null()).then_some(client)
    }

    /// Makes the server try to write to the client before it sleeps. Main thread only.
    ///
    /// # Safety
    /// `client` was returned by [`Internals::lookup_client`] in this callback.
    pub unsafe fn flush_client(&self, client: *mut Client) {
        // SAFETY: by contract of this function.
        unsafe { (self.put_client_in_pending_write_queue)(client) }
    }

    /// Closes the client before the server sleeps; nothing is written to it any more. Main thread only.
    ///
    /// # Safety
    /// `client` was returned by [`Internals::lookup_client`] in this callback.
    pub unsafe fn close_client(&self, client: *mut Client) {
        // SAFETY: by contract of this function.
        unsafe { (self.free_client_async)(client) }
    }

    /// Whether anything waits to be written to the client. Main thread only.
    ///
    /// # Safety
    /// `client` lives, has a connection, is no replica, and no I/O thread works for it.
    pub unsafe fn has_pending_replies(&self, client: *mut Client) -> bool {
        // SAFETY: by contract of this function.
        unsafe { (self.client_has_pending_replies)(client) != 0 }
    }

    /// Has the server write to the client now what its connection takes. Main thread only.
    ///
    /// # Safety
    /// As [`Internals::has_pending_replies`].
    pub unsafe fn write_to_client(&self, client: *mut Client) {
        // SAFETY: by contract of this function. What it returns tells whether the client is to be closed, which it sees to itself.
        unsafe { (self.write_to_client)(client) };
    }

    /// Has the server keep its replication stream from now on, as it does from its first replica on. Main thread only.
    ///
    /// # Safety
    /// The server keeps none yet.
    pub unsafe fn start_replication_backlog(&self) {
        // SAFETY: by contract of this function.
        unsafe { (self.create_replication_backlog)() }
    }

    /// Has the server serve a client of the module's own over that socket, as one of TCP that it has just accepted, but for its limit
    /// on the number of clients, which is not to keep the module out. Answers the client's id. Main thread only, outside of any command.
    ///
    /// # Errors
    /// The server does not take it.
    pub fn take_connection(&self, socket: OwnedFd) -> Result<u64, String> {
        unsafe extern "C" fn accepted(_: *mut Connection) {}
        let [tcp, _, _] = self.types();
        if tcp.is_null() {
            return Err("the server has no TCP connections".to_owned());
        }
        // SAFETY: the server's own functions, in the order in which its acceptCommonHandler calls them; the server owns the socket from
        // the first on. A client that it could not accept is closed before anything was read from it.
        unsafe {
            let connection = ((*tcp).create_accepted)(socket.into_raw_fd(), std::ptr::null_mut());
            let client = (self.create_client)(connection);
            if client.is_null() {
                return Err("the server makes no client of the module's connection".to_owned());
            }
            let id = (*client).id;
            if self.lookup_client(id) != Some(client) {
                (self.free_client_async)(client);
                return Err("the server's clients do not begin with their id, as those of Valkey 9.1 do".to_owned());
            }
            if ((*tcp).accept)(connection, Some(accepted)) != 0 {
                (self.free_client_async)(client);
                return Err("the server does not accept the module's connection".to_owned());
            }
            Ok(id)
        }
    }

    /// Whether the command that runs now, or what it calls, comes from the stream of this server's primary. Of a replica that loads
    /// nothing. Main thread only.
    ///
    /// The server does not tell modules whose command it executes, only the client that a call was made for. But a replica that executes
    /// for its primary takes no key for expired, and at any other time it does.
    pub fn executes_for_primary(&self) -> bool {
        const POLICY_IGNORE_EXPIRE: c_int = 0;
        // SAFETY: only looks at fields of the server.
        unsafe { (self.get_expiration_policy)(0) == POLICY_IGNORE_EXPIRE }
    }

    /// Whether the server takes in events in the middle of something that it does, of whatever kind (`processEventsWhileBlocked`). Main
    /// thread only.
    pub fn is_within_command(&self) -> bool {
        // SAFETY: a variable of the server, which counts how deep it is in that; only the main thread changes it.
        unsafe { *self.events_while_blocked > 0 }
    }

    /// Whether a script or function runs, of whatever engine. Not any more at the event of the command that ran it. Main thread only.
    pub fn is_script_running(&self) -> bool {
        // SAFETY: reads a variable of the server.
        unsafe { (self.script_is_running)() != 0 }
    }

    /// Appends a command to what the server puts into the stream when the command that runs now is done, behind what is there
    /// already, as it does with that command itself right after its event. Does nothing where the server lets nothing into the
    /// stream: on a replica, while it loads, and within a module's call that is not to be replicated. Main thread only.
    ///
    /// # Safety
    /// `arguments` are live strings of the server. It is called while a command runs, or within its event.
    pub unsafe fn propagate(&self, database: u16, arguments: &[*mut raw::RedisModuleString]) {
        // SAFETY: by contract; the functions read the strings, and the last one copies the array and takes references to them.
        unsafe {
            let slot = self.leaving_slots.of_command(arguments);
            (self.also_propagate)(
                c_int::from(database),
                arguments.as_ptr().cast_mut(),
                arguments.len() as c_int,
                PROPAGATE_ALL,
                slot,
            );
        }
    }

    /// How many commands the server will put into the stream when the one that runs is done; `None` until [`Internals::find_queue`] has
    /// found that out. Main thread only.
    pub fn queued(&self) -> Option<u32> {
        self.queue.len()
    }

    /// Finds out where [`Internals::queued`] stands, by putting a command without effect (PING) into the stream. Returns whether it is
    /// known now. Main thread only.
    ///
    /// # Safety
    /// As [`Internals::put_into_stream`].
    pub unsafe fn find_queue(&self, ping: *mut raw::RedisModuleString) -> bool {
        // SAFETY: by contract. Nothing runs, so the second function only puts into the stream what the first has queued.
        let (put, flush) =
            (|| unsafe { self.propagate(0, &[ping]) }, || unsafe { (self.post_execution_unit_operations)() });
        self.queue.find(ping, put, flush)
    }

    /// Puts a command of one word into the stream, if there is one. Main thread only.
    ///
    /// # Safety
    /// It is called outside of commands and of server events, on a primary whose replicas are not paused. The string lives.
    pub unsafe fn put_into_stream(&self, word: *mut raw::RedisModuleString) {
        // SAFETY: by contract; as nothing runs, the second function only puts into the stream what the first has queued.
        unsafe {
            self.propagate(0, &[word]);
            (self.post_execution_unit_operations)();
        }
    }

    /// Deletes the fields of the hash `key` that have expired, and the hash if no other is left, as the server does sooner or later: that goes
    /// into the stream. Returns whether it had fields that expire. Main thread only, within a command's event.
    ///
    /// # Safety
    /// The value is that of a hash, and was found within the same event.
    pub unsafe fn delete_expired_fields(&self, key: &[u8], hash: KeyValue, now_ms: i64) -> bool {
        // SAFETY: by contract. Only hashes with fields that expire may be passed to the second function.
        unsafe {
            let has_any = (self.hash_type_has_volatile_fields)(hash.value);
            if has_any {
                let slot = self.leaving_slots.of_key(key);
                (self.db_reclaim_expired_fields)(hash.value, hash.database, now_ms, c_ulong::MAX, slot);
            }
            has_any
        }
    }

    /// Keeps the server from putting the command that `client` runs into the stream by itself. Main thread only.
    ///
    /// # Safety
    /// `client` is running a command: within that command's event.
    pub unsafe fn prevent_propagation(&self, client: *mut Client) {
        // SAFETY: by contract; sets a flag of the client, which the server takes back once the command is done.
        unsafe { (self.prevent_command_propagation)(client) }
    }

    /// The end of the replication stream, in bytes. Main thread only.
    pub fn replication_offset(&self) -> u64 {
        // SAFETY: reads a field of the server.
        let offset = unsafe { (self.get_psync_initial_offset)() };
        u64::try_from(offset).unwrap_or(0)
    }
}
