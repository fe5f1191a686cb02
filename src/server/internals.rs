//! What the module knows of the server beyond its module API: symbols, two structs, and events that the
//! `valkey-module` crate does not declare. Mirrors `connection.h` and `valkeymodule.h` of Valkey 9.1.
//!
//! Nothing here is trusted before the self-test (`agent/self_test.rs`) has seen it work in the running server.

use std::ffi::{c_char, c_int, c_longlong, c_short, c_ulong, c_ushort, c_void};
use std::os::fd::{IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::OnceLock;

use libloading::os::unix::Library;
use valkey_module::raw;

use crate::server::client_layout::read_foreign;

/// The server is a version whose structs this file mirrors.
pub fn is_verified_version(major: u32, minor: u32) -> bool {
    (major, minor) == (9, 1)
}

// Server events (`valkeymodule.h`).
/// The server became a replica, or a primary.
pub const EVENT_REPLICATION_ROLE_CHANGED: u64 = 0;
/// A database, or all of them, were emptied.
pub const EVENT_FLUSHDB: u64 = 2;
/// Data begins to be loaded, or was, or could not be.
pub const EVENT_LOADING: u64 = 3;
/// A client connected or disconnected.
pub const EVENT_CLIENT_CHANGE: u64 = 4;
/// The server shuts down.
pub const EVENT_SHUTDOWN: u64 = 5;
/// A module was loaded or unloaded.
pub const EVENT_MODULE_CHANGE: u64 = 9;
/// Data is being loaded; reported now and then.
pub const EVENT_LOADING_PROGRESS: u64 = 10;
/// The event loop is about to sleep, or woke up.
pub const EVENT_EVENTLOOP: u64 = 15;
/// A command ran and did not fail.
pub const EVENT_COMMAND_RESULT_SUCCESS: u64 = 20;
/// A command ran and failed.
pub const EVENT_COMMAND_RESULT_FAILURE: u64 = 21;
/// A command was refused before it ran: it does not exist, has too few arguments, or may not run now.
pub const EVENT_COMMAND_RESULT_REJECTED: u64 = 22;
/// A command was refused before it ran, by the permissions of its user.
pub const EVENT_COMMAND_RESULT_ACL_REJECTED: u64 = 23;
/// Sub-event of [`EVENT_REPLICATION_ROLE_CHANGED`].
pub const SUBEVENT_NOW_REPLICA: u64 = 1;
/// Sub-event of [`EVENT_LOADING`].
pub const SUBEVENT_LOADING_FAILED: u64 = 4;
/// Sub-event of [`EVENT_CLIENT_CHANGE`].
pub const SUBEVENT_CLIENT_DISCONNECTED: u64 = 1;
/// Sub-event of [`EVENT_MODULE_CHANGE`].
pub const SUBEVENT_MODULE_UNLOADED: u64 = 1;
/// Sub-event of [`EVENT_FLUSHDB`].
pub const SUBEVENT_FLUSHDB_END: u64 = 1;
/// Sub-event of [`EVENT_EVENTLOOP`]: replies are written to sockets right after it.
pub const SUBEVENT_BEFORE_SLEEP: u64 = 0;
/// Sub-event of [`EVENT_EVENTLOOP`]: something is to be done.
pub const SUBEVENT_AFTER_SLEEP: u64 = 1;

/// `ValkeyModuleCommandResultInfoV1`.
#[repr(C)]
pub struct CommandResult {
    /// Of this struct.
    pub version: u64,
    /// The command's full name in lower case, `config|get` for a subcommand. The same pointer each time the command runs. Null if
    /// there is no such command.
    pub command_name: *const c_char,
    /// How long the command ran.
    pub duration_us: c_longlong,
    /// By how much the command advanced the server's count of changes.
    pub dirty: c_longlong,
    /// Who ran it. For a command that a script calls, the id of the script engine's own client.
    pub client_id: u64,
    /// Not 0 if a module called the command.
    pub is_module_client: c_int,
    /// Length of `argv`.
    pub argc: c_int,
    /// The command as the client sent it.
    pub argv: *mut *mut raw::RedisModuleString,
    /// Of a command that was refused before it ran: the error, or what its user may not touch. Else null.
    pub rejection_context: *const c_char,
}

/// The version of [`CommandResult`] that this file mirrors.
pub const COMMAND_RESULT_VERSION: u64 = 1;

/// `client`: never looked into beyond its first field, but for the search of `server/connections.rs`.
#[repr(C)]
pub struct Client {
    /// As `CLIENT ID` shows it.
    pub id: u64,
}

/// `ConnectionCallbackFunc`.
pub type ConnectionHandler = Option<unsafe extern "C" fn(*mut Connection)>;

/// `struct connection`. A TLS connection begins with it.
#[repr(C)]
pub struct Connection {
    /// The table of functions of its type.
    pub kind: *mut ConnectionType,
    /// [`CONNECTED`], [`CLOSED`] …
    pub state: c_int,
    last_errno: c_int,
    /// The socket.
    pub fd: c_int,
    /// Of which the module knows [`CLIENT_IS_CHECKED`].
    pub flags: c_short,
    refs: c_short,
    iovcnt: c_ushort,
    /// The client.
    pub private_data: *mut Client,
    connect_handler: ConnectionHandler,
    /// Not null while the server waits for the socket to take more.
    pub write_handler: ConnectionHandler,
    /// Not null while the server reads what the socket receives.
    pub read_handler: ConnectionHandler,
}

/// `CONN_STATE_CONNECTED`, a [`Connection::state`]: it can be written to.
pub const CONNECTED: c_int = 3;
/// `CONN_STATE_CLOSED`, a [`Connection::state`]: a read has found that the other end sends nothing any more.
pub const CLOSED: c_int = 4;

/// `CONN_FLAG_ALLOW_ACCEPT_OFFLOAD`, of [`Connection::flags`]. Behind this flag the server's own assertions look into the client.
pub const CLIENT_IS_CHECKED: c_short = 1 << 2;

/// `ConnectionType.shutdown` and `ConnectionType.close`.
pub type CloseFunction = unsafe extern "C" fn(*mut Connection);
/// `tls_connection`.
#[repr(C)]
pub struct TlsConnection {
    connection: Connection,
    flags: c_int,
    session: *mut c_void,
    error: *mut c_char,
    pending_node: *mut c_void,
    /// How many bytes OpenSSL was given when it could not send them: it wants them, and as many, the next time. 0 if it sent something.
    last_failed_write_bytes: usize,
}

impl TlsConnection {
    /// OpenSSL's session (`SSL`); null if the server could not make one.
    ///
    /// # Safety
    /// It is a live connection of the server's TLS type, which no other thread uses.
    pub unsafe fn session(connection: *const Connection) -> *mut c_void {
        // SAFETY: by contract, this is the struct.
        unsafe { (*connection.cast::<TlsConnection>()).session }
    }

    /// How many bytes are to be offered to OpenSSL again, the same ones in one piece, as the socket did not take them.
    ///
    /// # Safety
    /// It is a live connection of the server's TLS type, to which the calling thread is writing.
    pub unsafe fn unfinished_bytes(connection: *const Connection) -> usize {
        // SAFETY: by contract, this is the struct; only who writes to the connection uses the field.
        unsafe { (*connection.cast::<TlsConnection>()).last_failed_write_bytes }
    }
}

/// `ConnectionType.write`.
pub type WriteFunction = unsafe extern "C" fn(*mut Connection, *const c_void, usize) -> c_int;
/// `ConnectionType.writev`.
pub type WritevFunction = unsafe extern "C" fn(*mut Connection, *const libc::iovec, c_int) -> c_int;
/// `ConnectionType.read`.
pub type ReadFunction = unsafe extern "C" fn(*mut Connection, *mut c_void, usize) -> c_int;
/// `ConnectionType.set_read_handler`.
pub type SetReadHandlerFunction = unsafe extern "C" fn(*mut Connection, ConnectionHandler) -> c_int;
/// `ConnectionType.set_write_handler`.
pub type SetWriteHandlerFunction = unsafe extern "C" fn(*mut Connection, ConnectionHandler, c_int) -> c_int;

/// `CONN_POSTPONE_READ`: an I/O thread reads, or the server has not taken in what became of it.
pub const POSTPONE_READ: c_int = 1 << 0;
/// `CONN_POSTPONE_WRITE`: an I/O thread writes, or the server has not taken in what became of it.
pub const POSTPONE_WRITE: c_int = 1 << 1;

/// `ConnectionType.postpone_update_state`.
pub type PostponeFunction = unsafe extern "C" fn(*mut Connection, c_int);

/// `ConnectionType.connect`.
pub type ConnectFunction =
    unsafe extern "C" fn(*mut Connection, *const c_char, c_int, *const c_char, c_int, ConnectionHandler) -> c_int;
/// `ConnectionType.conn_create_accepted`.
pub type CreateAcceptedFunction = unsafe extern "C" fn(c_int, *mut c_void) -> *mut Connection;
/// `ConnectionType.accept`.
pub type AcceptFunction = unsafe extern "C" fn(*mut Connection, ConnectionHandler) -> c_int;

/// `ConnectionType`, up to the last function that the module uses.
#[repr(C)]
pub struct ConnectionType {
    get_type: *const c_void,
    /// init, cleanup, configure, ae_handler, accept_handler, addr, is_local, listen, closeListener, conn_create.
    before_create_accepted: [*const c_void; 10],
    /// Makes a connection of a socket that was accepted.
    pub create_accepted: CreateAcceptedFunction,
    /// Ends the connection in both directions, also for processes that share its socket.
    pub shutdown: CloseFunction,
    /// Closes the socket, and frees the connection.
    pub close: CloseFunction,
    /// Begins to connect to another server.
    pub connect: ConnectFunction,
    blocking_connect: *const c_void,
    /// Ends what accepting takes, and calls the handler.
    pub accept: AcceptFunction,
    /// Writes from one buffer.
    pub write: WriteFunction,
    /// Writes from many.
    pub writev: WritevFunction,
    /// Reads what the socket has received.
    pub read: ReadFunction,
    /// Asks for a call when the socket takes more, or ends that.
    pub set_write_handler: SetWriteHandlerFunction,
    /// Asks for a call when the socket has received something, or ends that.
    pub set_read_handler: SetReadHandlerFunction,
    /// get_last_error, sync_write, sync_read, sync_readline, has_pending_data, process_pending_data.
    before_postpone: [*const c_void; 6],
    /// Whether the two functions above leave the event loop as it is (1), as they do while an I/O thread works for the connection. Only
    /// of types that I/O threads do more for than to read and write the socket.
    pub postpone_update_state: Option<PostponeFunction>,
}

type TypeFunction = unsafe extern "C" fn() -> *mut ConnectionType;
type LookupFunction = unsafe extern "C" fn(u64) -> *mut Client;
type ClientFunction = unsafe extern "C" fn(*mut Client);
/// Of `writeToClient` and `clientHasPendingReplies`.
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

/// `ValkeyModuleCommandFilterCtx`: what a command filter is passed.
#[repr(C)]
pub struct FilterContext {
    /// The command's arguments. While no filter has changed them, those of `client`.
    pub argv: *mut *mut raw::RedisModuleString,
    argv_len: c_int,
    /// How many there are.
    pub argc: c_int,
    /// Who is about to run the command. For a command that a script calls, the script engine's own client.
    pub client: *mut Client,
}

/// `ValkeyModuleKey`: a key that was opened.
#[repr(C)]
pub struct OpenedKey {
    ctx: *mut raw::RedisModuleCtx,
    database: *mut c_void,
    name: *mut raw::RedisModuleString,
    value: *mut c_void,
}

/// A key's value, found by opening the key. It lives until the key is written.
pub struct KeyValue {
    database: *mut c_void,
    value: *mut c_void,
}

impl OpenedKey {
    /// The value, if this is the key of that name, opened in that context. `None` means that the server's struct is another one.
    ///
    /// # Safety
    /// `key` was opened by the server, and is not closed yet.
    pub unsafe fn value(
        key: *const OpenedKey,
        ctx: *mut raw::RedisModuleCtx,
        name: *mut raw::RedisModuleString,
    ) -> Option<KeyValue> {
        // SAFETY: by contract; the server's struct is longer.
        let key = unsafe { &*key };
        let is_known = key.ctx == ctx && key.name == name && !key.database.is_null() && !key.value.is_null();
        is_known.then_some(KeyValue { database: key.database, value: key.value })
    }
}

/// `PROPAGATE_AOF | PROPAGATE_REPL`: what is propagated goes to the AOF and to replicas.
const PROPAGATE_ALL: c_int = 1 | 2;
/// Stands for no cluster slot.
const NO_SLOT: c_int = -1;

/// Functions of the server that are exported to modules only by accident.
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
    /// `server`, of which nothing is known but that it holds [`OperationQueue`].
    server: *const c_void,
    /// [`OperationQueue::count`] in it, once it was found.
    queued: AtomicPtr<c_int>,
}

// SAFETY: the pointers lead into statics of the server; what is behind them is read on the main thread only.
unsafe impl Send for Internals {}
// SAFETY: as above.
unsafe impl Sync for Internals {}

/// `serverOpArray`: what is put into the stream when the command that runs is done.
#[repr(C)]
struct OperationQueue {
    operations: *const Operation,
    count: c_int,
    capacity: c_int,
}

/// `serverOp`.
#[repr(C)]
struct Operation {
    argv: *const *mut raw::RedisModuleString,
    argc: c_int,
    database: c_int,
    target: c_int,
    slot: c_int,
}

/// How far into `server` the search for [`OperationQueue`] goes, in words.
const SERVER_WORDS: usize = 16 << 10;

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
            server: symbol(&server, "server")?,
            queued: AtomicPtr::default(),
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
        // SAFETY: by contract; the function copies the array and takes references to the strings, and writes to neither.
        unsafe {
            (self.also_propagate)(
                c_int::from(database),
                arguments.as_ptr().cast_mut(),
                arguments.len() as c_int,
                PROPAGATE_ALL,
                NO_SLOT,
            );
        }
    }

    /// How many commands the server is to put into the stream when the one that runs is done; `None` if that was not found out.
    /// Main thread only.
    pub fn queued(&self) -> Option<u32> {
        let queued = self.queued.load(Ordering::Relaxed);
        // SAFETY: null, or found in the server's static.
        (!queued.is_null()).then(|| unsafe { *queued } as u32)
    }

    /// Finds out where [`Internals::queued`] stands: puts a command without effect into the stream (PING), and looks what has
    /// changed. Main thread only, outside of commands and of server events, while the server is a primary that keeps its
    /// stream, and replicas are not paused. Returns whether it is known now.
    ///
    /// # Safety
    /// `ping` is a live string of the server.
    pub unsafe fn find_queue(&self, ping: *mut raw::RedisModuleString) -> bool {
        if self.queued().is_some() {
            return true;
        }
        let before = self.server_words();
        // SAFETY: by contract.
        unsafe { self.propagate(0, &[ping]) };
        let after = self.server_words();
        let is_queue = |word: &usize| {
            before[word + 1] as u32 == 0 && after[word + 1] as u32 == 1 && holds_only(after[*word], ping)
        };
        let found: Vec<usize> = (0..before.len().min(after.len()).saturating_sub(1)).filter(is_queue).collect();
        // SAFETY: nothing runs, so this only puts into the stream what was just queued.
        unsafe { (self.post_execution_unit_operations)() };
        if let [word] = found[..] {
            let queue = self.server.cast::<u64>().wrapping_add(word).cast::<OperationQueue>();
            let count = queue.wrapping_byte_add(std::mem::offset_of!(OperationQueue, count)).cast::<c_int>();
            // It is empty again.
            if read_foreign(count) == Some(0) {
                self.queued.store(count.cast_mut(), Ordering::Relaxed);
            }
        }
        self.queued().is_some()
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

    /// What stands in `server` and behind it, as far as that can be read.
    fn server_words(&self) -> Vec<u64> {
        const AT_ONCE: usize = 32;
        let words = self.server.cast::<[u64; AT_ONCE]>();
        (0..SERVER_WORDS / AT_ONCE).map_while(|at| read_foreign(words.wrapping_add(at))).flatten().collect()
    }

    /// Deletes the fields of a hash that have expired, and the hash if no other is left, as the server does sooner or later: that goes
    /// into the stream. Returns whether it had fields that expire. Main thread only, within a command's event.
    ///
    /// # Safety
    /// The value is that of a hash, and was found within the same event.
    pub unsafe fn delete_expired_fields(&self, hash: KeyValue, now_ms: i64) -> bool {
        const NO_CLUSTER: c_int = 0;
        // SAFETY: by contract. Only hashes with fields that expire may be passed to the second function.
        unsafe {
            let has_any = (self.hash_type_has_volatile_fields)(hash.value);
            if has_any {
                (self.db_reclaim_expired_fields)(hash.value, hash.database, now_ms, c_ulong::MAX, NO_CLUSTER);
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

/// Whether at that address stands one [`Operation`], with no argument but `ping`.
fn holds_only(address: u64, ping: *mut raw::RedisModuleString) -> bool {
    let address = address as usize;
    if address == 0 || address % align_of::<Operation>() != 0 {
        return false;
    }
    let operation = std::ptr::with_exposed_provenance::<Operation>(address);
    let field = |offset: usize| read_foreign::<c_int>(operation.wrapping_byte_add(offset).cast());
    let argv = read_foreign::<usize>(operation.cast()).map(std::ptr::with_exposed_provenance::<usize>);
    field(std::mem::offset_of!(Operation, argc)) == Some(1)
        && field(std::mem::offset_of!(Operation, database)) == Some(0)
        && field(std::mem::offset_of!(Operation, target)) == Some(PROPAGATE_ALL)
        && field(std::mem::offset_of!(Operation, slot)) == Some(NO_SLOT)
        && argv.and_then(read_foreign) == Some(ping.expose_provenance())
}
