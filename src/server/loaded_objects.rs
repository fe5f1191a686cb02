//! Which function of another object (the program, or a shared library) an object of this process calls under a name.
//!
//! A search by name finds some function of that name. If a library is there twice, once linked into the program and once loaded by
//! somebody else, it may not be the one that the program calls. So this file reads what the dynamic linker has written into the object's
//! table of addresses: that is what is called. For ELF objects of 64 bits, as all that Valkey runs on in production are. Any thread.

use std::ffi::{c_char, c_int, c_void, CStr, CString};

use libloading::os::unix::Library;

/// An object that is loaded, and never unloaded while this is used.
pub struct Object {
    /// What is to be added to the addresses in its file.
    base: usize,
    /// Its dynamic section; none if it is linked statically.
    dynamic: Option<*const Entry>,
    /// Where it stands in memory: first address, and the one after the last.
    parts: Vec<(usize, usize)>,
}

/// `Elf64_Dyn`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Entry {
    tag: i64,
    value: u64,
}

/// `Elf64_Rela`.
#[repr(C)]
struct Relocation {
    offset: u64,
    info: u64,
    _addend: i64,
}

/// `Elf64_Sym`.
#[repr(C)]
struct Symbol {
    name: u32,
    _info: u8,
    _other: u8,
    _section: u16,
    _value: u64,
    _bytes: u64,
}

/// `DT_…`: the end of a dynamic section, and what of it is needed.
const END: i64 = 0;
const PLT_RELOCATION_BYTES: i64 = 2;
const NAMES: i64 = 5;
const SYMBOLS: i64 = 6;
const RELOCATIONS: i64 = 7;
const RELOCATION_BYTES: i64 = 8;
const PLT_RELOCATION_KIND: i64 = 20;
const PLT_RELOCATIONS: i64 = 23;

impl Object {
    /// The object to which an address belongs.
    pub fn of(address: *const c_void) -> Option<Self> {
        if cfg!(not(target_pointer_width = "64")) {
            return None;
        }
        let mut search = Search { address: address as usize, found: None };
        // SAFETY: the function is given what it expects, and is called only until this returns.
        unsafe { libc::dl_iterate_phdr(Some(look), (&raw mut search).cast()) };
        search.found
    }

    /// Whether an address belongs to it.
    pub fn has(&self, address: *const c_void) -> bool {
        self.parts.iter().any(|&(first, end)| (first..end).contains(&(address as usize)))
    }

    /// The address that it calls as `name`, if it takes that from another object, or lets others take the place of its own. It is an address of
    /// its own until the first call if the dynamic linker waits for that.
    pub fn calls(&self, name: &CStr) -> Option<*const c_void> {
        let value = |tag| self.value(tag);
        let (names, symbols) = (self.pointer::<c_char>(NAMES)?, self.pointer::<Symbol>(SYMBOLS)?);
        let plt = match value(PLT_RELOCATION_KIND) {
            Some(kind) if kind == RELOCATIONS as u64 => (PLT_RELOCATIONS, PLT_RELOCATION_BYTES),
            _ => (RELOCATIONS, RELOCATION_BYTES),
        };
        for (table, bytes) in [plt, (RELOCATIONS, RELOCATION_BYTES)] {
            let (Some(table), Some(bytes)) = (self.pointer::<Relocation>(table), value(bytes)) else { continue };
            for number in 0..bytes as usize / size_of::<Relocation>() {
                // SAFETY: the dynamic section says how long the table is.
                let relocation = unsafe { &*table.add(number) };
                let symbol = (relocation.info >> 32) as usize;
                if symbol == 0 {
                    continue;
                }
                // SAFETY: the linker has made symbols for its relocations, and a name for each symbol.
                let found = unsafe { CStr::from_ptr(names.add((*symbols.add(symbol)).name as usize)) };
                if found == name {
                    let slot = (self.base + relocation.offset as usize) as *const *const c_void;
                    // SAFETY: a relocation by a function's symbol stands where the object keeps that function's address.
                    return Some(unsafe { slot.read_unaligned() });
                }
            }
        }
        None
    }

    /// The object as a library, in which functions are searched for, and after it in what it needs. The program itself is searched for as all
    /// that the process has loaded for everybody.
    pub fn library(&self) -> Option<Library> {
        let (first, _) = self.parts.first()?;
        if self.is_program() {
            return Some(Library::this());
        }
        let mut found = libc::Dl_info {
            dli_fname: std::ptr::null(),
            dli_fbase: std::ptr::null_mut(),
            dli_sname: std::ptr::null(),
            dli_saddr: std::ptr::null_mut(),
        };
        // SAFETY: any address may be asked for; what is found is written to `found`.
        if unsafe { libc::dladdr(*first as *const c_void, &raw mut found) } == 0 || found.dli_fname.is_null() {
            return None;
        }
        // SAFETY: a C string of the dynamic linker's, for as long as the object is loaded.
        let path: CString = unsafe { CStr::from_ptr(found.dli_fname) }.into();
        // SAFETY: only finds a library that the process has loaded already.
        unsafe { Library::open(Some(std::ffi::OsStr::new(path.to_str().ok()?)), libc::RTLD_NOW | libc::RTLD_NOLOAD) }
            .ok()
    }

    /// Whether it is the program that runs.
    fn is_program(&self) -> bool {
        // SAFETY: the auxiliary vector's value is where the program's own headers are.
        self.has(unsafe { libc::getauxval(libc::AT_PHDR) } as *const c_void)
    }

    fn value(&self, tag: i64) -> Option<u64> {
        let mut at = self.dynamic?;
        loop {
            // SAFETY: a dynamic section goes on until the entry that says that it ends.
            let entry = unsafe { *at };
            match entry.tag {
                END => return None,
                found if found == tag => return Some(entry.value),
                // SAFETY: as above.
                _ => at = unsafe { at.add(1) },
            }
        }
    }

    fn pointer<T>(&self, tag: i64) -> Option<*const T> {
        let value = self.value(tag)? as usize;
        // Some dynamic linkers have added the base already.
        Some(if value < self.base { self.base + value } else { value } as *const T)
    }
}

struct Search {
    address: usize,
    found: Option<Object>,
}

unsafe extern "C" fn look(info: *mut libc::dl_phdr_info, _bytes: libc::size_t, search: *mut c_void) -> c_int {
    // SAFETY: `Object::of` passes its search, and the dynamic linker an object and its headers.
    let (search, info) = unsafe { (&mut *search.cast::<Search>(), &*info) };
    if info.dlpi_phdr.is_null() {
        return 0;
    }
    // SAFETY: as above.
    let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
    let base = info.dlpi_addr as usize;
    let part =
        |header: &libc::Elf64_Phdr| (base + header.p_vaddr as usize, base + (header.p_vaddr + header.p_memsz) as usize);
    let parts = headers.iter().filter(|header| header.p_type == libc::PT_LOAD).map(part).collect();
    let dynamic = headers.iter().find(|header| header.p_type == libc::PT_DYNAMIC);
    let dynamic = dynamic.map(|header| (base + header.p_vaddr as usize) as *const Entry);
    let object = Object { base, dynamic, parts };
    if !object.has(search.address as *const c_void) {
        return 0;
    }
    search.found = Some(object);
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What this test is linked to under that name.
    fn address_of(library: &Library, name: &CStr) -> *const c_void {
        // SAFETY: the function is not called.
        unsafe { library.get::<unsafe extern "C" fn()>(name.to_bytes()) }
            .map_or(std::ptr::null(), |found| *found as *const c_void)
    }

    #[test]
    fn what_an_object_calls_is_found_where_it_is_called() {
        let here = Object::of(address_here()).expect("this program");
        assert!(here.is_program());
        let address = here.calls(c"write").expect("the standard library writes");
        assert!(!here.has(address));
        let library = Object::of(address).expect("the C library");
        assert!(library.has(address) && !library.is_program());
        assert!(library.has(address_of(&library.library().expect("loaded"), c"write")));
    }

    #[test]
    fn what_an_object_does_not_take_from_another_one_is_not_found() {
        let here = Object::of(address_here()).expect("this program");
        // The program has it loaded, and could find it by its name, but calls it nowhere.
        assert!(!address_of(&Library::this(), c"lockf64").is_null());
        assert_eq!(here.calls(c"lockf64"), None);
        assert_eq!(here.calls(c"no such function"), None);
    }

    #[test]
    fn an_address_of_nothing_belongs_to_no_object() {
        assert!(Object::of(std::ptr::null()).is_none());
        let of_the_heap = Box::new(0_u8);
        assert!(Object::of((&raw const *of_the_heap).cast()).is_none());
    }

    fn address_here() -> *const c_void {
        address_here as *const c_void
    }
}
