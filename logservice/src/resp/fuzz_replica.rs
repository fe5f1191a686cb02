//! Fuzzes what a server sends before it follows a log: any user name, `REPLCONF` and `PSYNC`.

use std::panic::AssertUnwindSafe;

use bytes::Bytes;
use durability_protocol::ReplicaUser;

use super::connection::Connection;
use super::fuzz::{connection, runtime, shared};
use super::identity::Follows;
use super::replica::{find_position, ReplicaInfo};
use crate::shard::Position;

const REPLID: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const END: u64 = 100;
const MOST_BYTES: usize = 64 << 10;

async fn run(connection: &mut Connection, arguments: &[&[u8]]) {
    let arguments: Vec<_> = arguments.iter().map(|argument| Bytes::copy_from_slice(argument)).collect();
    connection.run(&arguments).await;
}

#[test]
fn a_server_goes_on_only_where_the_log_has_what_it_holds() {
    let shared = AssertUnwindSafe(shared(None));
    let shard = runtime().block_on(async {
        let shard = shared.service.shard_or_new("s1").await.expect("made");
        let (mut leader, _client) = connection(&shared).await;
        run(&mut leader, &[b"LOG.CHECK", b"s1", b"n1", b"host:1", b"-"]).await;
        run(&mut leader, &[b"LOG.ACQUIRE", b"s1", b"n1", b"host:1", b"0", b"0"]).await;
        run(&mut leader, &[b"LOG.BEGIN", b"s1", b"1", REPLID.as_bytes(), b"0"]).await;
        run(&mut leader, &[b"LOG.APPEND", b"s1", b"1", b"0", &[7; END as usize]]).await;
        while shard.notifier().progress().visible < END {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        shard
    });
    let (shard, log_id) = (AssertUnwindSafe(&*shard), shard.log_id());
    // Each part has a meaning, or is anything.
    type Input = (u8, Vec<u8>, u8, Vec<u8>, i16, Option<i64>, Vec<(u8, Vec<u8>)>);
    bolero::check!().with_type::<Input>().for_each(|(which, user, replid, other, near, far, words)| {
        let user = match which % 8 {
            0 => "s1".to_owned(),
            1 => format!("s1/{log_id}:1:{REPLID}:{near}"),
            2 => format!("s1/{log_id}:1:{REPLID}:{near}/whole"),
            3 => format!("s1/{log_id}:{near}::0/whole"),
            4 => format!("s1/0123456789abcdef:1:{REPLID}:{near}"),
            _ => String::from_utf8_lossy(user).into_owned(),
        };
        let replid = match replid % 4 {
            0 | 1 => REPLID.as_bytes(),
            2 => b"?",
            _ => other,
        };
        let next = far.unwrap_or(i64::from(*near));
        let names: [&[u8]; 6] = [b"listening-port", b"ip-address", b"capa", b"version", b"ack", b"9.1.2"];
        let word = |(word, other): &(u8, Vec<u8>)| {
            names
                .get(usize::from(*word) % 8)
                .map_or_else(|| Bytes::from(other.clone()), |name| Bytes::from_static(name))
        };
        let told: Vec<_> =
            [Bytes::from_static(b"REPLCONF")].into_iter().chain(words.iter().take(63).map(word)).collect();
        let asked: Vec<_> = [b"PSYNC", replid, next.to_string().as_bytes()].map(Bytes::copy_from_slice).to_vec();
        allocation::within(MOST_BYTES + 4 * user.len(), || {
            let mut info = ReplicaInfo::default();
            let _ = info.configure(&told);
            let Ok(user) = ReplicaUser::parse(&user) else { return };
            let (follows, is_own) = match user.known {
                Some(known) => {
                    let is_own = known.log == log_id && known.durable <= END;
                    (Some(Follows { known, is_whole: user.is_whole }), is_own)
                }
                None => (None, true),
            };
            match find_position(*shard, follows.as_ref(), &asked) {
                Ok(Position::Continue { offset, replid: shown, .. }) => {
                    assert!(is_own && replid == REPLID.as_bytes() && shown == REPLID);
                    assert_eq!(Some(offset), u64::try_from(next).ok().map(|next| next - 1));
                    assert!(offset <= END);
                }
                Ok(Position::Full) => assert!(is_own),
                Err(refusal) => assert!(!refusal.to_string().is_empty()),
            }
        });
    });
    std::fs::remove_dir_all(shared.service.directory()).expect("removed");
}
