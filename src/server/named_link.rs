//! The server's own link to its log checks that the log's certificate names the host in `durability.log`, as the module's connections do.
//!
//! By itself Valkey checks only which CA has signed a certificate, so anybody with one of that CA, another node say, could send a node its
//! data. So the server connects over TLS through this file (`server/connection_functions.rs`). For a link to the log, it tells OpenSSL before the
//! handshake which name the certificate must have, and which one to ask for (SNI); the handshake then fails by itself. In a server whose
//! OpenSSL is not found, because it is linked statically and not to be seen from outside, the CA alone counts, and the server's log says
//! so. Main thread only.

use std::cell::RefCell;
use std::ffi::{c_char, c_int, c_long, c_uint, c_void, CStr, CString};
use std::net::IpAddr;
use std::sync::OnceLock;

use libloading::os::unix::Library;
use valkey_module::logging::log_warning;

use crate::base::panic_guard::guard;
use crate::server::cluster::bus_links::is_to_be_bus_link;
use crate::server::connection_functions::{self, original, TLS};
use crate::server::follow_settings::{self, Owner};
use crate::server::loaded_objects::Object;
use crate::server::structs::{Connection, ConnectionHandler, TlsConnection};

/// `X509_CHECK_FLAG_NEVER_CHECK_SUBJECT` and `X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS`: names as the module's own connections take them.
const HOST_FLAGS: c_uint = 0x20 | 0x4;
/// `SSL_CTRL_SET_TLSEXT_HOSTNAME`, and the only kind of name that it takes.
const SET_SERVER_NAME: c_int = 55;
const HOST_NAME: c_long = 0;
/// `C_ERR`.
const FAILED: c_int = -1;

/// A link to the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The address that the server is told to connect to, as written there.
    pub address: String,
    /// The port there.
    pub port: u16,
    /// The name that the certificate must have.
    pub host: String,
}

thread_local! {
    static LINK: RefCell<Option<Link>> = const { RefCell::new(None) };
}

/// The server is about to be told to follow its log there, and connects meanwhile. Returns what it follows if it refuses: for [`restore`].
pub fn expect(link: Link) -> Option<Link> {
    LINK.replace(Some(link))
}

/// Where the server was told to follow its log.
pub fn current() -> Option<Link> {
    LINK.with_borrow(Clone::clone)
}

/// The server has refused, and follows what it followed.
pub fn restore(link: Option<Link>) {
    LINK.set(link);
}

/// Has the server connect over TLS through this file. Main thread, once the server's own functions are kept.
pub fn install() {
    connection_functions::put_tls_connect_function(named_connect);
}

/// Has the server connect over TLS by itself. Main thread.
pub fn uninstall() {
    connection_functions::restore_tls_connect_function();
}

/// The server is not told to follow a log. Main thread.
pub fn forget_all() {
    LINK.set(None);
}

unsafe extern "C" fn named_connect(
    connection: *mut Connection,
    address: *const c_char,
    port: c_int,
    source: *const c_char,
    multipath: c_int,
    handler: ConnectionHandler,
) -> c_int {
    let named = guard("naming the log to its server", Err(String::from("a panic")), || {
        // SAFETY: null, or a C string of the server's.
        let address = (!address.is_null()).then(|| unsafe { CStr::from_ptr(address) });
        if follow_settings::owner() != Owner::Log || is_to_be_bus_link(handler) {
            return Ok(());
        }
        let host = address.and_then(|address| LINK.with_borrow(|link| host_of(link.as_ref(), address, port)));
        let host = host.ok_or_else(|| String::from("it is not there that the log is"))?;
        // SAFETY: the server passes a live connection of its TLS type, whose handshake has not begun.
        unsafe { name(connection, &host) }
    });
    if let Err(why) = named {
        log_warning(format!("durability: the server's link to its log cannot be told the log's name: {why}"));
        return FAILED;
    }
    // SAFETY: the server's own arguments to its own function.
    unsafe { (original::<TLS>().connect)(connection, address, port, source, multipath, handler) }
}

/// What the certificate has to name there; `None` if the link leads elsewhere.
fn host_of(link: Option<&Link>, address: &CStr, port: c_int) -> Option<String> {
    let link = link?;
    let is_it = link.address.as_bytes() == address.to_bytes() && c_int::from(link.port) == port;
    is_it.then(|| link.host.clone())
}

/// # Safety
/// `connection` is a live connection of the server's TLS type, whose handshake has not begun.
unsafe fn name(connection: *mut Connection, host: &str) -> Result<(), String> {
    let Some(openssl) = OpenSsl::get() else { return Ok(()) };
    // SAFETY: by contract.
    let session = unsafe { TlsConnection::session(connection) };
    let name = CString::new(host).map_err(|error| error.to_string())?;
    let taken = if session.is_null() {
        false
    } else if host.parse::<IpAddr>().is_ok() {
        // SAFETY: a live session, and a C string that is copied.
        unsafe { (openssl.set_ip)((openssl.get_param)(session), name.as_ptr()) == 1 }
    } else {
        // SAFETY: as above.
        unsafe {
            (openssl.set_host_flags)(session, HOST_FLAGS);
            (openssl.set_host)(session, name.as_ptr()) == 1
                && (openssl.control)(session, SET_SERVER_NAME, HOST_NAME, name.as_ptr().cast_mut().cast()) == 1
        }
    };
    taken.then_some(()).ok_or_else(|| format!("OpenSSL does not take '{host}'"))
}

/// What of OpenSSL, which the server has loaded, is needed.
struct OpenSsl {
    /// `SSL_get0_param`.
    get_param: unsafe extern "C" fn(*mut c_void) -> *mut c_void,
    /// `X509_VERIFY_PARAM_set1_ip_asc`.
    set_ip: unsafe extern "C" fn(*mut c_void, *const c_char) -> c_int,
    /// `SSL_set_hostflags`.
    set_host_flags: unsafe extern "C" fn(*mut c_void, c_uint),
    /// `SSL_set1_host`.
    set_host: unsafe extern "C" fn(*mut c_void, *const c_char) -> c_int,
    /// `SSL_ctrl`.
    control: unsafe extern "C" fn(*mut c_void, c_int, c_long, *mut c_void) -> c_long,
}

impl OpenSsl {
    /// That which the server uses; `None` if it cannot be found, which is logged once. Called when the server has made a session.
    fn get() -> Option<&'static Self> {
        static FOUND: OnceLock<Option<OpenSsl>> = OnceLock::new();
        let find = || {
            let found = Self::of_caller(original::<TLS>().connect as *const c_void);
            if found.is_none() {
                log_warning(
                    "durability: this server's link to its log checks the CA of the log's certificate, and not its name, as its OpenSSL \
                     is not found: use a valkey-server that is linked to libssl dynamically",
                );
            }
            found
        };
        FOUND.get_or_init(find).as_ref()
    }

    /// That which the object of `function` calls: the server's program, or its module for TLS. Another copy of OpenSSL in the process, of a
    /// module's say, would take the server's session for something else, so nothing is taken that is not proved to be of the same copy.
    fn of_caller(function: *const c_void) -> Option<Self> {
        let caller = Object::of(function)?;
        // What makes the sessions. If the caller takes that from nowhere, it is linked into the caller.
        let ssl = match caller.calls(c"SSL_new") {
            Some(address) => Object::of(address)?,
            None => caller,
        };
        // The half of OpenSSL that compares names is a library of its own, or linked to the same object.
        let crypto = ssl.calls(c"X509_VERIFY_PARAM_set1_host").and_then(Object::of);
        Self::of(&ssl, crypto.as_ref().unwrap_or(&ssl))
    }

    fn of(ssl: &Object, crypto: &Object) -> Option<Self> {
        fn symbol<T: Copy>(library: &Library, object: &Object, name: &str) -> Option<T> {
            const { assert!(size_of::<T>() == size_of::<*const c_void>()) };
            // SAFETY: each T is the type of that function in every version of OpenSSL that the server can be built with.
            let found = unsafe { library.get::<T>(name.as_bytes()) }.ok()?;
            // SAFETY: as large as a function pointer.
            let address = unsafe { std::mem::transmute_copy::<T, *const c_void>(&found) };
            object.has(address).then(|| *found)
        }
        let (library, crypto_library) = (ssl.library()?, crypto.library()?);
        let found = OpenSsl {
            get_param: symbol(&library, ssl, "SSL_get0_param")?,
            set_ip: symbol(&crypto_library, crypto, "X509_VERIFY_PARAM_set1_ip_asc")?,
            set_host_flags: symbol(&library, ssl, "SSL_set_hostflags")?,
            set_host: symbol(&library, ssl, "SSL_set1_host")?,
            control: symbol(&library, ssl, "SSL_ctrl")?,
        };
        // They stay loaded for as long as the functions may be called: for ever.
        std::mem::forget((library, crypto_library));
        Some(found)
    }
}
