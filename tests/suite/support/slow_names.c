/* A system that does not resolve names: preloaded, it lets no name be resolved for as long as the file exists that $SLOW_NAMES names. Then
 * names that end with .test stand for 127.0.0.1. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int (*Function)(const char *, const char *, const struct addrinfo *, struct addrinfo **);

/* The server loads modules in such a way that they would not find the function below. */
void *dlopen(const char *file, int flags) {
    void *(*real)(const char *, int) = (void *(*)(const char *, int))dlsym(RTLD_NEXT, "dlopen");
    return real(file, flags & ~RTLD_DEEPBIND);
}

int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    Function real = (Function)dlsym(RTLD_NEXT, "getaddrinfo");
    const char *file = getenv("SLOW_NAMES");
    size_t length = name == NULL ? 0 : strlen(name);
    if (length > 5 && strcmp(name + length - 5, ".test") == 0) {
        while (file != NULL && access(file, F_OK) == 0) usleep(10000);
        name = "127.0.0.1";
    }
    return real(name, service, hints, found);
}
