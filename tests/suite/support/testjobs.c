/* A module for tests that has no commands. It hears of changes, and reads and writes because of them.
 *
 * Keys that begin with tj:job:EVENT: are written in a job after that event, or after any if EVENT is `any`. Databases that are
 * emptied are written to in a job as well, if the module is loaded with the argument `flush`.
 * Keys that begin with tj:read: make the module read others, and those with tj:write: write another, as it hears of them; with
 * tj:silent: it does not replicate that.
 */

#include "valkeymodule.h"

#include <string.h>
#include <strings.h>

typedef ValkeyModuleCtx Ctx;
typedef ValkeyModuleString String;

#define JOB "tj:job:"
#define READ "tj:read:"
#define WRITE "tj:write:"
#define SILENT "tj:silent:"

/* The job's own writes ask for no job. */
static int in_job;

static int begins_with(const char *text, const char *beginning) {
    return strncmp(text, beginning, strlen(beginning)) == 0;
}

static void run_job(Ctx *ctx, void *data) {
    in_job = 1;
    ValkeyModuleCallReply *reply = ValkeyModule_Call(ctx, "SET", "scE!", (String *)data, "by the job");
    if (reply != NULL) ValkeyModule_FreeCallReply(reply);
    in_job = 0;
}

static void free_job(void *data) {
    ValkeyModule_FreeString(NULL, data);
}

/* A node that follows, or loads its data, takes no jobs. */
static void add_job(Ctx *ctx, String *key) {
    if (ValkeyModule_AddPostNotificationJob(ctx, run_job, key, free_job) != VALKEYMODULE_OK) free_job(key);
}

static void call(Ctx *ctx, const char *command, const char *format, const char *key, const char *value) {
    ValkeyModuleCallReply *reply = ValkeyModule_Call(ctx, command, format, key, value);
    if (reply != NULL) ValkeyModule_FreeCallReply(reply);
}

static int notified(Ctx *ctx, int type, const char *event, String *key) {
    VALKEYMODULE_NOT_USED(type);
    const char *name = ValkeyModule_StringPtrLen(key, NULL);
    if (begins_with(name, READ)) {
        call(ctx, "GET", "cE", "tj:other", NULL);
        call(ctx, "EXISTS", "cE", "tj:another", NULL);
    }
    if (begins_with(name, WRITE)) call(ctx, "SET", "ccE!", "tj:read:by-notification", event);
    if (begins_with(name, SILENT)) call(ctx, "SET", "ccE", "tj:written-silently", event);
    if (in_job || !begins_with(name, JOB)) return VALKEYMODULE_OK;
    const char *wanted = name + strlen(JOB);
    size_t length = strcspn(wanted, ":");
    int is_wanted = (length == strlen(event) && strncmp(wanted, event, length) == 0) || begins_with(wanted, "any:");
    if (is_wanted) add_job(ctx, ValkeyModule_CreateStringFromString(NULL, key));
    return VALKEYMODULE_OK;
}

static void flushed(Ctx *ctx, ValkeyModuleEvent event, uint64_t sub_event, void *data) {
    VALKEYMODULE_NOT_USED(event);
    VALKEYMODULE_NOT_USED(data);
    if (sub_event == VALKEYMODULE_SUBEVENT_FLUSHDB_END) {
        add_job(ctx, ValkeyModule_CreateString(NULL, "tj:flushed", strlen("tj:flushed")));
    }
}

int ValkeyModule_OnLoad(Ctx *ctx, String **argv, int argc) {
    if (ValkeyModule_Init(ctx, "tj", 1, VALKEYMODULE_APIVER_1) != VALKEYMODULE_OK) return VALKEYMODULE_ERR;
    ValkeyModule_SetModuleOptions(ctx, VALKEYMODULE_OPTIONS_ALLOW_NESTED_KEYSPACE_NOTIFICATIONS);
    for (int i = 0; i < argc; i++) {
        if (strcasecmp(ValkeyModule_StringPtrLen(argv[i], NULL), "flush") == 0 &&
            ValkeyModule_SubscribeToServerEvent(ctx, ValkeyModuleEvent_FlushDB, flushed) != VALKEYMODULE_OK) {
            return VALKEYMODULE_ERR;
        }
    }
    return ValkeyModule_SubscribeToKeyspaceEvents(ctx, VALKEYMODULE_NOTIFY_ALL, notified);
}
