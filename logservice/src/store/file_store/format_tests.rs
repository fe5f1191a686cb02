use proptest::prelude::*;

use super::*;
use crate::encryption::KeyRing;

/// With a key of its own.
fn encrypted(header: SegmentHeader) -> SegmentHeader {
    let keys = KeyRing::of_text(&format!("k1 01{}", "23".repeat(31))).expect("parses");
    let (_, envelope) = keys.draw(&header.context()).expect("drawn").expect("encrypts");
    SegmentHeader { envelope: Some(envelope), ..header }
}

fn any_form() -> impl Strategy<Value = Form> {
    proptest::sample::select(&Form::ALL[..])
}

fn any_header() -> impl Strategy<Value = (RecordHeader, u32)> {
    let fields = (1..=MAX_RECORD_PAYLOAD_BYTES as u32, any::<u64>(), any::<u64>(), any::<u64>(), any::<u32>());
    let (form, nonce) = (any_form(), any::<[u8; NONCE_BYTES]>());
    (fields, any::<u32>(), any::<u32>(), form, nonce).prop_map(
        |((bytes, epoch, offset, time_ms, crc), previous, salt, form, nonce)| {
            let nonce = form.is_encrypted().then_some(nonce);
            let plain = RecordHeader::following(previous, bytes, epoch, offset, time_ms, crc);
            (RecordHeader { form, nonce, ..plain }, salt)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_record_header_survives_and_every_flipped_bit_is_seen((header, salt) in any_header()) {
        let bytes = header.encode(salt);
        prop_assert_eq!(RecordHeader::decode(&bytes, salt), Some(header));
        for bit in 0..32 {
            prop_assert_eq!(RecordHeader::decode(&bytes, salt ^ 1 << bit), None);
            prop_assert!(!has_record_magic(&bytes, salt ^ 1 << bit));
        }
        prop_assert_eq!(RecordHeader::decode(&bytes[..bytes.len() - 1], salt), None);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(RecordHeader::decode(&flipped, salt), None, "bit {}", bit);
        }
    }

    #[test]
    fn the_running_checksum_depends_on_every_record_before((header, _) in any_header(), previous in any::<u32>()) {
        let after = header.checksum_after(previous);
        prop_assert_ne!(after, header.checksum_after(previous ^ 1));
        let other = RecordHeader { payload_crc32c: header.payload_crc32c ^ 1, ..header };
        prop_assert_ne!(after, other.checksum_after(previous));
    }

    #[test]
    fn a_segment_header_survives_and_every_flipped_bit_is_seen(
        shard in "[A-Za-z0-9_:-]{1,64}", generation: u64, first_offset: u64, file_bytes: u64,
        running_checksum: u32, salt: u32, form in any_form(),
    ) {
        let plain =
            SegmentHeader { shard, generation, first_offset, file_bytes, running_checksum, salt, form, envelope: None };
        let header = if form.is_encrypted() { encrypted(plain) } else { plain };
        let bytes = header.encode();
        prop_assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(SegmentHeader::decode(&flipped).is_err(), "bit {}", bit);
        }
    }
}

#[test]
fn an_empty_or_oversized_record_is_none() {
    for payload_bytes in [0, MAX_RECORD_PAYLOAD_BYTES as u32 + 1, u32::MAX] {
        let bytes = RecordHeader::following(0, payload_bytes, 1, 0, 0, 0).encode(7);
        assert_eq!(RecordHeader::decode(&bytes, 7), None);
    }
}

#[test]
fn a_segment_of_another_version_is_refused_with_what_to_do() {
    let header = SegmentHeader {
        shard: "s1".to_owned(),
        generation: 0,
        first_offset: 0,
        file_bytes: 2 << 20,
        running_checksum: 0,
        salt: 7,
        form: Form::Plain,
        envelope: None,
    };
    let of_version = |version: u32| {
        let mut bytes = header.encode();
        bytes[8..12].copy_from_slice(&version.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[..SEGMENT_FIELDS_BYTES - 4]);
        bytes[SEGMENT_FIELDS_BYTES - 4..].copy_from_slice(&checksum.to_le_bytes());
        SegmentHeader::decode(&bytes)
    };
    assert_eq!(of_version(Form::Plain.version()), Ok(header.clone()));
    let newer = of_version(Form::Framed.version() + 1).expect_err("newer");
    assert!(newer.starts_with("written by a newer version (segment format 7, this one reads 2, 3, 6)"), "{newer}");
    assert!(newer.ends_with("upgrade logservice"), "{newer}");
    assert!(of_version(1).expect_err("older").contains("before the first release"));
    for of_copy in [4, 5] {
        assert!(of_version(of_copy)
            .expect_err("another log's")
            .starts_with("one of a copy that several services keep"));
    }
}
