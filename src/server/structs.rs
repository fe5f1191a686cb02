//! Structs of the server that its module API does not show. Mirrors `connection.h`, `module.c` and `tls.c` of Valkey 9.1.
//!
//! The self-test (`agent/self_test.rs`) sees them work in the running server before anything relies on them.

use std::ffi::{c_char, c_int, c_short, c_ushort, c_void};

use valkey_module::raw;

/// `client`: never looked into beyond its first field, but for the searches of `server/client_layout.rs`.
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
    /// The module uses one of them: [`CLIENT_IS_CHECKED`].
    pub flags: c_short,
    refs: c_short,
    iovcnt: c_ushort,
    /// The client.
    pub private_data: *mut Client,
    /// Not null while the server waits for the connection to be there.
    pub connect_handler: ConnectionHandler,
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

/// `ConnectionType.shutdown` and `ConnectionType.close`.
pub type CloseFunction = unsafe extern "C" fn(*mut Connection);
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

/// `ConnectionType.addr`: of the other end, or of the server's own.
pub type AddressFunction = unsafe extern "C" fn(*mut Connection, *mut c_char, usize, *mut c_int, c_int) -> c_int;

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
    /// init, cleanup, configure, ae_handler, accept_handler.
    before_address: [*const c_void; 5],
    /// Tells the address of the other end.
    pub address: AddressFunction,
    /// is_local, listen, closeListener, conn_create.
    before_create_accepted: [*const c_void; 4],
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
    /// `serverDb`.
    pub(super) database: *mut c_void,
    /// `robj`.
    pub(super) value: *mut c_void,
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
