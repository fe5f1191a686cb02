//! Which types of data this server knows by its modules.

use std::ffi::{c_char, c_void, CString};

use libloading::os::unix::Library;

type LookupFunction = unsafe extern "C" fn(name: *const c_char) -> *const c_void;

/// Those of `names` that no module of this server has registered. None if this server does not tell. Main thread only.
pub fn unknown(names: Vec<String>) -> Vec<String> {
    let server = Library::this();
    // SAFETY: the type is that of the function in the 9.1 source, and no newer version has changed it.
    let Ok(lookup) = (unsafe { server.get::<LookupFunction>(b"moduleTypeLookupModuleByName") }) else {
        return Vec::new();
    };
    let is_known = |name: &String| {
        // SAFETY: the text lives during the call, which reads the server's modules, as this thread may.
        CString::new(name.as_str()).is_ok_and(|name| !unsafe { lookup(name.as_ptr()) }.is_null())
    };
    names.into_iter().filter(|name| !is_known(name)).collect()
}
