// ioredis: writes to the leader and reads from a follower, until it is ended. Prints what valkey_py.py prints.
//
//   ioredis.js HOST PORT,... SHARD TOKEN KEY
//
// Without failoverDetector, as docs/clients.md says: a +switch-master that arrives while ioredis is reconnecting ends the client.

const Redis = require("ioredis");

const [host, ports, shard, token, key] = process.argv.slice(2);
const sentinels = ports.split(",").map((port) => ({ host, port: Number(port) }));
const sentinel = { sentinels, sentinelUsername: shard, sentinelPassword: token, name: shard };
const say = (...words) => console.log(words.join(" ").replaceAll("\n", " "));
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const leader = new Redis(sentinel);
leader.on("error", (error) => say("error", error));
// A client that gives up by itself is of no use to an application. The test sees that this process is gone.
leader.on("end", () => {
  say("error", "the client has ended by itself");
  process.exit(1);
});

async function read() {
  const follower = new Redis({ ...sentinel, role: "slave" });
  follower.on("error", (error) => say("error", error));
  try {
    await follower.get(key);
    return (await follower.role())[0];
  } finally {
    follower.disconnect();
  }
}

async function main() {
  for (let number = 1; ; number++) {
    for (;;) {
      try {
        await leader.set(key, number);
        break;
      } catch (error) {
        say("error", error);
        await pause(50);
      }
    }
    say("write", number);
    if (number % 10 === 0) await read().then((role) => say("read", role), (error) => say("error", error));
    await pause(10);
  }
}

main();
