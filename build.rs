//! Link options of the module.

fn main() {
    // The code stays mapped when the server unloads the module: an I/O thread may still be on its way through one of the
    // functions that decorate connections.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    println!("cargo:rerun-if-changed=build.rs");
}
