//! What a directory holds at a moment, to be written elsewhere and opened as if the machine had stopped there.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Files and directories by their path; a directory has no content.
#[derive(Debug, Clone, Default)]
pub struct Image(pub BTreeMap<PathBuf, Option<Vec<u8>>>);

impl Image {
    pub fn take(directory: &Path) -> Self {
        let mut image = Image::default();
        image.add(directory, Path::new(""));
        image
    }

    fn add(&mut self, directory: &Path, below: &Path) {
        for entry in fs::read_dir(directory.join(below)).expect("listed") {
            let entry = entry.expect("entry");
            let path = below.join(entry.file_name());
            if entry.file_type().expect("type").is_dir() {
                self.0.insert(path.clone(), None);
                self.add(directory, &path);
            } else {
                self.0.insert(path, Some(fs::read(entry.path()).expect("read")));
            }
        }
    }

    pub fn write(&self, directory: &Path) {
        for (path, content) in &self.0 {
            let path = directory.join(path);
            match content {
                None => fs::create_dir_all(path).expect("created"),
                Some(bytes) => fs::write(path, bytes).expect("written"),
            }
        }
    }
}
