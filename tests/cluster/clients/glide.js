// Valkey GLIDE's GlideClusterClient. See lanes.js.

const { GlideClusterClient, Logger } = require("@valkey/valkey-glide");
const { nodes, writeAll } = require("./lanes.js");

Logger.init("off");
// By itself it waits a quarter of a second only.
GlideClusterClient.createClient({ addresses: nodes, requestTimeout: 2000 }).then((client) => {
  writeAll((key, value) => client.set(key, value));
});
