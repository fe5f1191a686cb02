// ioredis' Cluster, as it is without options. See lanes.js.

const { Cluster } = require("ioredis");
const { nodes, writeAll } = require("./lanes.js");

const client = new Cluster(nodes);
// What it tells of single nodes is no error of a write.
client.on("error", () => {});
client.on("end", () => {
  console.log(JSON.stringify({ error: "Ended", text: "the client has ended by itself" }));
  process.exit(1);
});
writeAll((key, value) => client.set(key, value));
