//! Text with its checksum in a last line of its own, so that a digit that has changed on the medium is not believed.

const LABEL: &str = "\ncrc32c ";
const LINE_BYTES: usize = LABEL.len() + 8 + 1;

/// `text` and the line.
pub fn add(text: &[u8]) -> Vec<u8> {
    let mut out = text.to_vec();
    out.extend_from_slice(line(text).as_bytes());
    out
}

/// The text without the line, or why it is not to be believed.
pub fn verify(bytes: &[u8]) -> Result<&[u8], String> {
    let (text, found) = bytes.split_at(bytes.len().saturating_sub(LINE_BYTES));
    if found == line(text).as_bytes() {
        Ok(text)
    } else if found.starts_with(LABEL.as_bytes()) {
        Err("it does not match its checksum".to_owned())
    } else {
        Err("its last line is not its checksum: it was cut off, or damaged".to_owned())
    }
}

fn line(text: &[u8]) -> String {
    format!("{LABEL}{:08x}\n", crc32c::crc32c(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_believed_only_as_it_was_written() {
        let bytes = add(b"{ \"base\": 10 }");
        assert_eq!(bytes, b"{ \"base\": 10 }\ncrc32c 24781204\n");
        assert_eq!(verify(&bytes), Ok(&b"{ \"base\": 10 }"[..]));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(verify(&flipped).is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(verify(&bytes[..length]).is_err(), "{length} bytes");
        }
    }
}
