// What the clients for Node have in common: they write to keys of each tag at a time, and print what valkey_py.py prints.
//
//   CLIENT.js HOST PORT,... NAME TAG...

const [host, ports, name, ...tags] = process.argv.slice(2);
const say = (what) => console.log(JSON.stringify(what));
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

exports.nodes = ports.split(",").map((port) => ({ host, port: Number(port) }));

async function write(tag, set) {
  for (let number = 1; ; number++) {
    try {
      await set(`${name}{${tag}}:${number}`, String(number));
      say({ tag, write: number });
      await pause(20);
    } catch (error) {
      say({ tag, error: error.constructor.name, text: String(error.message) });
      await pause(50);
    }
  }
}

// Writes by `set`, a function of key and value, for as long as the process lives.
exports.writeAll = (set) => tags.forEach((tag) => write(tag, set));
