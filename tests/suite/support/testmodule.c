/* A module for tests: its commands write, read, block and replicate in the ways that modules may, well-behaved or not.
 *
 * Arguments of loadmodule:
 *   type      the data type "tm-type--" exists, and with it tm.type_set
 *   hear-config the key tm:config is written, and that replicated, as the module is loaded and whenever a setting changes
 *   leave-out tm.set_verbatim and tm.fail_on_replica do not exist, as in a module of another version
 */

#include "valkeymodule.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

typedef ValkeyModuleCtx Ctx;
typedef ValkeyModuleString String;

static ValkeyModuleType *own_type;

static int is_from_primary(Ctx *ctx) {
    return (ValkeyModule_GetContextFlags(ctx) & VALKEYMODULE_CTX_FLAGS_REPLICATED) != 0;
}

/* Replies an error if the call did not come about. */
static int called(Ctx *ctx, ValkeyModuleCallReply *reply) {
    if (reply == NULL) {
        ValkeyModule_ReplyWithError(ctx, strerror(errno));
        return 0;
    }
    if (ValkeyModule_CallReplyType(reply) == VALKEYMODULE_REPLY_ERROR) {
        ValkeyModule_ReplyWithCallReply(ctx, reply);
        return 0;
    }
    return 1;
}

/* tm.set_verbatim key value: writes by RM_Call, and is itself what is replicated. */
static int set_verbatim(Ctx *ctx, String **argv, int argc) {
    if (argc != 3) return ValkeyModule_WrongArity(ctx);
    ValkeyModule_AutoMemory(ctx);
    if (!called(ctx, ValkeyModule_Call(ctx, "SET", "ssE", argv[1], argv[2]))) return VALKEYMODULE_OK;
    ValkeyModule_ReplicateVerbatim(ctx);
    return ValkeyModule_ReplyWithSimpleString(ctx, "OK");
}

/* tm.write_silent key value: writes by the key's own interface, and replicates nothing. */
static int write_silent(Ctx *ctx, String **argv, int argc) {
    if (argc != 3) return ValkeyModule_WrongArity(ctx);
    ValkeyModuleKey *key = ValkeyModule_OpenKey(ctx, argv[1], VALKEYMODULE_READ | VALKEYMODULE_WRITE);
    ValkeyModule_StringSet(key, argv[2]);
    ValkeyModule_CloseKey(key);
    return ValkeyModule_ReplyWithSimpleString(ctx, "OK");
}

/* tm.call_silent key value: writes by RM_Call, and replicates nothing. */
static int call_silent(Ctx *ctx, String **argv, int argc) {
    if (argc != 3) return ValkeyModule_WrongArity(ctx);
    ValkeyModule_AutoMemory(ctx);
    if (!called(ctx, ValkeyModule_Call(ctx, "SET", "ssE", argv[1], argv[2]))) return VALKEYMODULE_OK;
    return ValkeyModule_ReplyWithSimpleString(ctx, "OK");
}

/* tm.only_leader command key ...: runs the command without replicating it, and is itself what is replicated; one that it is replicated to
 * does nothing. So the stream has it, and what follows the stream lacks what it did. */
static int only_leader(Ctx *ctx, String **argv, int argc) {
    if (argc < 3) return ValkeyModule_WrongArity(ctx);
    ValkeyModule_AutoMemory(ctx);
    if (is_from_primary(ctx)) return ValkeyModule_ReplyWithSimpleString(ctx, "OK");
    const char *command = ValkeyModule_StringPtrLen(argv[1], NULL);
    ValkeyModuleCallReply *reply = ValkeyModule_Call(ctx, command, "vE", argv + 2, (size_t)(argc - 2));
    if (!called(ctx, reply)) return VALKEYMODULE_OK;
    ValkeyModule_ReplicateVerbatim(ctx);
    return ValkeyModule_ReplyWithCallReply(ctx, reply);
}

/* tm.call command argument ...: calls it, and what it writes is replicated. */
static int call_replicated(Ctx *ctx, String **argv, int argc) {
    if (argc < 2) return ValkeyModule_WrongArity(ctx);
    ValkeyModule_AutoMemory(ctx);
    const char *command = ValkeyModule_StringPtrLen(argv[1], NULL);
    ValkeyModuleCallReply *reply = ValkeyModule_Call(ctx, command, "vE!", argv + 2, (size_t)(argc - 2));
    if (!called(ctx, reply)) return VALKEYMODULE_OK;
    return ValkeyModule_ReplyWithCallReply(ctx, reply);
}

/* tm.replicate command argument ...: puts it into the stream, and does nothing else. */
static int replicate(Ctx *ctx, String **argv, int argc) {
    if (argc < 2) return ValkeyModule_WrongArity(ctx);
    const char *command = ValkeyModule_StringPtrLen(argv[1], NULL);
    if (ValkeyModule_Replicate(ctx, command, "v", argv + 2, (size_t)(argc - 2)) != VALKEYMODULE_OK) {
        return ValkeyModule_ReplyWithError(ctx, "ERR not replicated");
    }
    return ValkeyModule_ReplyWithSimpleString(ctx, "OK");
}

/* tm.read_noflags key: reads by RM_Call, though it is registered as neither reading nor writing. */
static int read_noflags(Ctx *ctx, String **argv, int argc) {
    if (argc != 2) return ValkeyModule_WrongArity(ctx);
    ValkeyModule_AutoMemory(ctx);
    ValkeyModuleCallReply *reply = ValkeyModule_Call(ctx, "GET", "sE", argv[1]);
    if (!called(ctx, reply)) return VALKEYMODULE_OK;
    return ValkeyModule_ReplyWithCallReply(ctx, reply);
}

/* tm.open_noflags key: reads by the key's own interface, though it is registered as neither reading nor writing. */
static int open_noflags(Ctx *ctx, String **argv, int argc) {
    if (argc != 2) return ValkeyModule_WrongArity(ctx);
    ValkeyModuleKey *key = ValkeyModule_OpenKey(ctx, argv[1], VALKEYMODULE_READ);
    if (key == NULL) return ValkeyModule_ReplyWithNull(ctx);
    if (ValkeyModule_KeyType(key) != VALKEYMODULE_KEYTYPE_STRING) {
        ValkeyModule_CloseKey(key);
        return ValkeyModule_ReplyWithError(ctx, VALKEYMODULE_ERRORMSG_WRONGTYPE);
    }
    size_t length;
    const char *bytes = ValkeyModule_StringDMA(key, &length, VALKEYMODULE_READ);
    ValkeyModule_ReplyWithStringBuffer(ctx, bytes, length);
    ValkeyModule_CloseKey(key);
    return VALKEYMODULE_OK;
}

/* Pops the head of the list and replies it. Returns whether there was one. */
static int pop(Ctx *ctx, String *name) {
    ValkeyModuleKey *key = ValkeyModule_OpenKey(ctx, name, VALKEYMODULE_READ | VALKEYMODULE_WRITE);
    String *element = NULL;
    if (ValkeyModule_KeyType(key) == VALKEYMODULE_KEYTYPE_LIST) {
        element = ValkeyModule_ListPop(key, VALKEYMODULE_LIST_HEAD);
    }
    ValkeyModule_CloseKey(key);
    if (element == NULL) return 0;
    ValkeyModule_Replicate(ctx, "LPOP", "s", name);
    ValkeyModule_ReplyWithString(ctx, element);
    ValkeyModule_FreeString(ctx, element);
    return 1;
}

static int blockpop_ready(Ctx *ctx, String **argv, int argc) {
    VALKEYMODULE_NOT_USED(argc);
    return pop(ctx, argv[1]) ? VALKEYMODULE_OK : VALKEYMODULE_ERR;
}

static int blockpop_timed_out(Ctx *ctx, String **argv, int argc) {
    VALKEYMODULE_NOT_USED(argv);
    VALKEYMODULE_NOT_USED(argc);
    return ValkeyModule_ReplyWithNull(ctx);
}

/* tm.blockpop key: pops the head of a list, and waits for one, without end. */
static int blockpop(Ctx *ctx, String **argv, int argc) {
    if (argc != 2) return ValkeyModule_WrongArity(ctx);
    if (!pop(ctx, argv[1])) {
        ValkeyModule_BlockClientOnKeys(ctx, blockpop_ready, blockpop_timed_out, NULL, 0, &argv[1], 1, NULL);
    }
    return VALKEYMODULE_OK;
}

/* tm.fail_on_replica key value: is replicated verbatim, but fails where it comes from the primary. */
static int fail_on_replica(Ctx *ctx, String **argv, int argc) {
    if (argc != 3) return ValkeyModule_WrongArity(ctx);
    if (is_from_primary(ctx)) return ValkeyModule_ReplyWithError(ctx, "ERR tm: not on a replica");
    return set_verbatim(ctx, argv, argc);
}

/* How the last write of a timer or of a notification's job ended. */
static char own_account[128] = "none";

/* A write that no client and no primary asked for. */
static void write_on_own_account(Ctx *ctx, const char *key) {
    ValkeyModuleCallReply *reply = ValkeyModule_Call(ctx, "SET", "ccE", key, "own");
    size_t length = 0;
    const char *text = reply ? ValkeyModule_CallReplyProto(reply, &length) : strerror(errno);
    if (!reply) length = strlen(text);
    if (length >= sizeof(own_account)) length = sizeof(own_account) - 1;
    memcpy(own_account, text, length);
    own_account[length] = 0;
    own_account[strcspn(own_account, "\r")] = 0;
    if (reply) ValkeyModule_FreeCallReply(reply);
}

static void timer_fired(Ctx *ctx, void *data) {
    VALKEYMODULE_NOT_USED(data);
    write_on_own_account(ctx, "tm:timer");
}

/* tm.timer ms: writes the key tm:timer by RM_Call, after that time. */
static int timer(Ctx *ctx, String **argv, int argc) {
    long long ms;
    if (argc != 2) return ValkeyModule_WrongArity(ctx);
    if (ValkeyModule_StringToLongLong(argv[1], &ms) != VALKEYMODULE_OK || ms < 0) {
        return ValkeyModule_ReplyWithError(ctx, "ERR tm: not a number of ms");
    }
    strcpy(own_account, "none");
    ValkeyModule_CreateTimer(ctx, ms, timer_fired, NULL);
    return ValkeyModule_ReplyWithSimpleString(ctx, "OK");
}

/* Keys that begin with tm:notify: make the module write tm:notified as it is told of them. If fields of such a hash expire, it writes
 * tm:expired, and that is replicated. */
static int notified(Ctx *ctx, int type, const char *event, String *key) {
    const char *name = ValkeyModule_StringPtrLen(key, NULL);
    if (strncmp(name, "tm:notify:", strlen("tm:notify:")) != 0) return VALKEYMODULE_OK;
    if (type == VALKEYMODULE_NOTIFY_STRING) {
        write_on_own_account(ctx, "tm:notified");
    } else if (strcmp(event, "hexpired") == 0) {
        ValkeyModuleCallReply *reply = ValkeyModule_Call(ctx, "SET", "cc!E", "tm:expired", "own");
        if (reply != NULL) ValkeyModule_FreeCallReply(reply);
    }
    return VALKEYMODULE_OK;
}

/* tm.own_account: what the last write was answered that no client asked for. */
static int last_own_account(Ctx *ctx, String **argv, int argc) {
    VALKEYMODULE_NOT_USED(argv);
    VALKEYMODULE_NOT_USED(argc);
    return ValkeyModule_ReplyWithCString(ctx, own_account);
}

/* tm.read_beside key other: says that it reads the first key, and reads the second by RM_Call. */
static int read_beside(Ctx *ctx, String **argv, int argc) {
    if (argc != 3) return ValkeyModule_WrongArity(ctx);
    return read_noflags(ctx, argv + 1, 2);
}

/* For a thread's call that is not replicated. */
#define SILENTLY 2

/* What tm.go allows: threads wait for it. */
static atomic_int may_go;

typedef struct {
    ValkeyModuleBlockedClient *blocked;
    String *key, *value;
    int by_call;
} Work;

/* Reads the key, or writes it if there is a value, as a thread that holds the lock, and answers the client. */
static void *work(void *argument) {
    Work *work = argument;
    while (!atomic_load(&may_go)) usleep(1000);
    Ctx *ctx = ValkeyModule_GetThreadSafeContext(work->blocked);
    ValkeyModule_ThreadSafeContextLock(ctx);
    if (work->value == NULL) {
        ValkeyModuleCallReply *reply = ValkeyModule_Call(ctx, "GET", "sE", work->key);
        ValkeyModule_ReplyWithCallReply(ctx, reply);
        ValkeyModule_FreeCallReply(reply);
    } else if (work->by_call) {
        const char *format = work->by_call == SILENTLY ? "ssE" : "ssE!";
        ValkeyModuleCallReply *reply = ValkeyModule_Call(ctx, "SET", format, work->key, work->value);
        ValkeyModule_ReplyWithCallReply(ctx, reply);
        ValkeyModule_FreeCallReply(reply);
    } else {
        ValkeyModuleKey *key = ValkeyModule_OpenKey(ctx, work->key, VALKEYMODULE_READ | VALKEYMODULE_WRITE);
        ValkeyModule_StringSet(key, work->value);
        ValkeyModule_CloseKey(key);
        ValkeyModule_Replicate(ctx, "SET", "ss", work->key, work->value);
        ValkeyModule_ReplyWithSimpleString(ctx, "OK");
    }
    ValkeyModule_FreeString(ctx, work->key);
    if (work->value != NULL) ValkeyModule_FreeString(ctx, work->value);
    ValkeyModule_ThreadSafeContextUnlock(ctx);
    ValkeyModule_UnblockClient(work->blocked, NULL);
    ValkeyModule_FreeThreadSafeContext(ctx);
    ValkeyModule_Free(work);
    return NULL;
}

static int start_work(Ctx *ctx, String *key, String *value, int by_call) {
    Work *new_work = ValkeyModule_Alloc(sizeof(*new_work));
    *new_work = (Work){.key = key, .value = value, .by_call = by_call};
    ValkeyModule_RetainString(NULL, key);
    if (value != NULL) ValkeyModule_RetainString(NULL, value);
    atomic_store(&may_go, 0);
    new_work->blocked = ValkeyModule_BlockClient(ctx, NULL, NULL, NULL, 0);
    pthread_t thread;
    if (pthread_create(&thread, NULL, work, new_work) != 0) {
        ValkeyModule_AbortBlock(new_work->blocked);
        return ValkeyModule_ReplyWithError(ctx, "ERR tm: no thread");
    }
    pthread_detach(thread);
    return VALKEYMODULE_OK;
}

/* tm.thread_get key: a thread reads, once tm.go was called. */
static int thread_get(Ctx *ctx, String **argv, int argc) {
    if (argc != 2) return ValkeyModule_WrongArity(ctx);
    return start_work(ctx, argv[1], NULL, 0);
}

/* tm.thread_set key value: a thread writes by RM_Call, once tm.go was called. */
static int thread_set(Ctx *ctx, String **argv, int argc) {
    if (argc != 3) return ValkeyModule_WrongArity(ctx);
    return start_work(ctx, argv[1], argv[2], 1);
}

/* tm.thread_silent key value: the same, and nothing is replicated. */
static int thread_silent(Ctx *ctx, String **argv, int argc) {
    if (argc != 3) return ValkeyModule_WrongArity(ctx);
    return start_work(ctx, argv[1], argv[2], SILENTLY);
}

/* tm.thread_open_set key value: a thread writes by the key's own interface, once tm.go was called. */
static int thread_open_set(Ctx *ctx, String **argv, int argc) {
    if (argc != 3) return ValkeyModule_WrongArity(ctx);
    return start_work(ctx, argv[1], argv[2], 0);
}

static int go(Ctx *ctx, String **argv, int argc) {
    VALKEYMODULE_NOT_USED(argv);
    VALKEYMODULE_NOT_USED(argc);
    atomic_store(&may_go, 1);
    return ValkeyModule_ReplyWithSimpleString(ctx, "OK");
}

/* tm.set_and_yield key value: writes by RM_Call, and then lets the server go on until tm.go is called. */
static int set_and_yield(Ctx *ctx, String **argv, int argc) {
    if (argc != 3) return ValkeyModule_WrongArity(ctx);
    ValkeyModule_AutoMemory(ctx);
    atomic_store(&may_go, 0);
    if (!called(ctx, ValkeyModule_Call(ctx, "SET", "ss!E", argv[1], argv[2]))) return VALKEYMODULE_OK;
    ValkeyModule_Log(ctx, "notice", "tm: yields");
    while (!atomic_load(&may_go)) {
        ValkeyModule_Yield(ctx, VALKEYMODULE_YIELD_FLAG_CLIENTS, "tm: yields");
        usleep(1000);
    }
    ValkeyModule_Log(ctx, "notice", "tm: goes on");
    return ValkeyModule_ReplyWithSimpleString(ctx, "OK");
}

static void promise_kept(Ctx *ctx, ValkeyModuleCallReply *reply, void *data) {
    VALKEYMODULE_NOT_USED(ctx);
    ValkeyModuleBlockedClient *blocked = data;
    Ctx *answer = ValkeyModule_GetThreadSafeContext(blocked);
    ValkeyModule_ReplyWithCallReply(answer, reply);
    ValkeyModule_FreeThreadSafeContext(answer);
    ValkeyModule_FreeCallReply(reply);
    ValkeyModule_UnblockClient(blocked, NULL);
}

/* tm.promise_blpop key: answers what an asynchronous BLPOP without end answers. */
static int promise_blpop(Ctx *ctx, String **argv, int argc) {
    if (argc != 2) return ValkeyModule_WrongArity(ctx);
    ValkeyModuleBlockedClient *blocked = ValkeyModule_BlockClient(ctx, NULL, NULL, NULL, 0);
    ValkeyModuleCallReply *reply = ValkeyModule_Call(ctx, "BLPOP", "scEK!", argv[1], "0");
    if (ValkeyModule_CallReplyType(reply) != VALKEYMODULE_REPLY_PROMISE) {
        promise_kept(ctx, reply, blocked);
        return VALKEYMODULE_OK;
    }
    ValkeyModule_CallReplyPromiseSetUnblockHandler(reply, promise_kept, blocked);
    ValkeyModule_FreeCallReply(reply);
    return VALKEYMODULE_OK;
}

static void *type_load(ValkeyModuleIO *io, int version) {
    return version == 0 ? ValkeyModule_LoadString(io) : NULL;
}

static void type_save(ValkeyModuleIO *io, void *value) {
    ValkeyModule_SaveString(io, value);
}

static void type_free(void *value) {
    ValkeyModule_FreeString(NULL, value);
}

/* tm.type_set key value: a value of the module's own type; replicated verbatim. */
static int type_set(Ctx *ctx, String **argv, int argc) {
    if (argc != 3) return ValkeyModule_WrongArity(ctx);
    ValkeyModuleKey *key = ValkeyModule_OpenKey(ctx, argv[1], VALKEYMODULE_READ | VALKEYMODULE_WRITE);
    ValkeyModule_RetainString(NULL, argv[2]);
    ValkeyModule_ModuleTypeSetValue(key, own_type, argv[2]);
    ValkeyModule_CloseKey(key);
    ValkeyModule_ReplicateVerbatim(ctx);
    return ValkeyModule_ReplyWithSimpleString(ctx, "OK");
}

static void config_changed(Ctx *ctx, ValkeyModuleEvent event, uint64_t subevent, void *data) {
    VALKEYMODULE_NOT_USED(event);
    VALKEYMODULE_NOT_USED(subevent);
    VALKEYMODULE_NOT_USED(data);
    ValkeyModuleCallReply *reply = ValkeyModule_Call(ctx, "INCR", "c!E", "tm:config");
    if (reply != NULL) ValkeyModule_FreeCallReply(reply);
}

static int has_argument(String **argv, int argc, const char *wanted) {
    for (int i = 0; i < argc; i++) {
        if (strcasecmp(ValkeyModule_StringPtrLen(argv[i], NULL), wanted) == 0) return 1;
    }
    return 0;
}

int ValkeyModule_OnLoad(Ctx *ctx, String **argv, int argc) {
    if (ValkeyModule_Init(ctx, "tm", 1, VALKEYMODULE_APIVER_1) != VALKEYMODULE_OK) return VALKEYMODULE_ERR;
    struct {
        const char *name;
        ValkeyModuleCmdFunc run;
        const char *flags;
        int first_key;
    } commands[] = {
        {"tm.write_silent", write_silent, "write", 1},
        {"tm.call_silent", call_silent, "write", 1},
        {"tm.call", call_replicated, "write", 0},
        {"tm.replicate", replicate, "write", 0},
        {"tm.only_leader", only_leader, "write", 2},
        {"tm.read_noflags", read_noflags, "", 0},
        {"tm.open_noflags", open_noflags, "", 0},
        {"tm.read_declared", open_noflags, "readonly", 1},
        {"tm.read_beside", read_beside, "readonly allow-busy", 1},
        {"tm.thread_get", thread_get, "readonly", 1},
        {"tm.thread_set", thread_set, "write", 1},
        {"tm.thread_silent", thread_silent, "write", 1},
        {"tm.thread_open_set", thread_open_set, "write", 1},
        {"tm.go", go, "allow-busy", 0},
        {"tm.set_and_yield", set_and_yield, "write", 1},
        {"tm.promise_blpop", promise_blpop, "write", 1},
        {"tm.blockpop", blockpop, "write", 1},
        {"tm.timer", timer, "allow-stale", 0},
        {"tm.own_account", last_own_account, "allow-stale allow-loading", 0},
        {"tm.set_verbatim", set_verbatim, "write", 1},
        {"tm.fail_on_replica", fail_on_replica, "write", 1},
    };
    int count = sizeof(commands) / sizeof(commands[0]);
    if (has_argument(argv, argc, "leave-out")) count -= 2;
    for (int i = 0; i < count; i++) {
        int key = commands[i].first_key;
        if (ValkeyModule_CreateCommand(ctx, commands[i].name, commands[i].run, commands[i].flags, key, key, key) !=
            VALKEYMODULE_OK) {
            return VALKEYMODULE_ERR;
        }
    }
    /* Otherwise no slots leave a server with this module. */
    ValkeyModule_SetModuleOptions(ctx, VALKEYMODULE_OPTIONS_HANDLE_ATOMIC_SLOT_MIGRATION);
    if (has_argument(argv, argc, "type")) {
        ValkeyModuleTypeMethods methods = {
            .version = VALKEYMODULE_TYPE_METHOD_VERSION,
            .rdb_load = type_load,
            .rdb_save = type_save,
            .free = type_free,
        };
        own_type = ValkeyModule_CreateDataType(ctx, "tm-type--", 0, &methods);
        if (own_type == NULL ||
            ValkeyModule_CreateCommand(ctx, "tm.type_set", type_set, "write", 1, 1, 1) != VALKEYMODULE_OK) {
            return VALKEYMODULE_ERR;
        }
    }
    if (has_argument(argv, argc, "hear-config")) {
        config_changed(ctx, ValkeyModuleEvent_Config, 0, NULL);
        if (ValkeyModule_SubscribeToServerEvent(ctx, ValkeyModuleEvent_Config, config_changed) != VALKEYMODULE_OK) {
            return VALKEYMODULE_ERR;
        }
    }
    return ValkeyModule_SubscribeToKeyspaceEvents(ctx, VALKEYMODULE_NOTIFY_STRING | VALKEYMODULE_NOTIFY_EXPIRED, notified);
}
