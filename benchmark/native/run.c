/* Runs a model with libonnxruntime.so alone, where there is no Python:
 *
 *     run LIBRARY MODEL TENSORS OUTPUT RUNS WARM-UP THREADS
 *
 * TENSORS is a text file with a line per tensor: "in NAME TYPE D0,D1,… FILE" (TYPE as in ONNX, FILE of raw values) and
 * "out NAME BYTES". The outputs of the last run are written to OUTPUT, one after the other. One line of JSON is printed:
 * version, milliseconds of loading and of every run, resident kilobytes at their peak before and after loading. After the warm-up and after every run it
 * calls getppid, which a counter of instructions takes as a mark.
 *
 * onnxruntime's table of functions only ever grows at its end, so that the few places used here need no header.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { API_VERSION = 16, MOST = 64, WARNINGS_OFF = 3, ARENA = 1, DEFAULT_MEMORY = 0 };
enum { /* places in the table */
    GET_ERROR_MESSAGE = 2,
    CREATE_ENV = 3,
    CREATE_SESSION = 7,
    RUN = 9,
    CREATE_SESSION_OPTIONS = 10,
    SET_INTRA_OP_THREADS = 24,
    SET_INTER_OP_THREADS = 25,
    CREATE_TENSOR = 49,
    GET_TENSOR_DATA = 51,
    CREATE_CPU_MEMORY = 69,
    RELEASE_VALUE = 96
};

typedef struct {
    const void *const *(*get_api)(uint32_t version);
    const char *(*get_version)(void);
} Base;

static const void *const *api;

static void fail(const char *what, const char *why) {
    fprintf(stderr, "%s: %s\n", what, why);
    exit(3);
}

static void check(void *status, const char *what) {
    if (status) fail(what, ((const char *(*)(void *))api[GET_ERROR_MESSAGE])(status));
}

static double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

static void *read_file(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    if (!file) fail(path, "cannot be read");
    fseek(file, 0, SEEK_END);
    *size = (size_t)ftell(file);
    rewind(file);
    void *data = malloc(*size ? *size : 1);
    if (!data || fread(data, 1, *size, file) != *size) fail(path, "cannot be read");
    fclose(file);
    return data;
}

static const char *names_in[MOST], *names_out[MOST];
static void *inputs[MOST], *outputs[MOST];
static size_t bytes_out[MOST], count_in, count_out;

static void read_tensors(const char *path) {
    FILE *file = fopen(path, "r");
    if (!file) fail(path, "cannot be read");
    void *memory;
    check(((void *(*)(int, int, void **))api[CREATE_CPU_MEMORY])(ARENA, DEFAULT_MEMORY, &memory), "memory");
    char line[4096];
    while (fgets(line, sizeof line, file)) {
        char name[512], dims[512], source[2048];
        int type;
        size_t bytes;
        if (count_in == MOST || count_out == MOST) fail(path, "names too many tensors");
        if (sscanf(line, "out %511s %zu", name, &bytes) == 2) {
            names_out[count_out] = strdup(name);
            bytes_out[count_out++] = bytes;
        } else if (sscanf(line, "in %511s %d %511s %2047[^\n]", name, &type, dims, source) == 4) {
            int64_t shape[16];
            size_t rank = 0;
            for (char *one = strtok(dims, ","); one && rank < 16; one = strtok(NULL, ",")) shape[rank++] = atoll(one);
            void *data = read_file(source, &bytes);
            check(((void *(*)(void *, void *, size_t, const int64_t *, size_t, int, void **))api[CREATE_TENSOR])(
                      memory, data, bytes, shape, rank, type, &inputs[count_in]), name);
            names_in[count_in++] = strdup(name);
        } else {
            fail(path, line);
        }
    }
    fclose(file);
}

static void run_once(void *session) {
    for (size_t i = 0; i < count_out; i++) {
        if (outputs[i]) ((void (*)(void *))api[RELEASE_VALUE])(outputs[i]);
        outputs[i] = NULL;
    }
    check(((void *(*)(void *, void *, const char *const *, void *const *, size_t, const char *const *, size_t, void **))
               api[RUN])(session, NULL, names_in, inputs, count_in, names_out, count_out, outputs), "run");
}

static void write_outputs(const char *path) {
    FILE *file = fopen(path, "wb");
    if (!file) fail(path, "cannot be written");
    for (size_t i = 0; i < count_out; i++) {
        void *data;
        check(((void *(*)(void *, void **))api[GET_TENSOR_DATA])(outputs[i], &data), names_out[i]);
        if (fwrite(data, 1, bytes_out[i], file) != bytes_out[i]) fail(path, "cannot be written");
    }
    if (fclose(file)) fail(path, "cannot be written");
}

int main(int count, char **words) {
    if (count != 8) fail("usage", "run LIBRARY MODEL TENSORS OUTPUT RUNS WARM-UP THREADS");
    int runs = atoi(words[5]), warm_up = atoi(words[6]), threads = atoi(words[7]);
    void *library = dlopen(words[1], RTLD_NOW | RTLD_LOCAL);
    if (!library) fail(words[1], dlerror());
    const Base *base = ((const Base *(*)(void))dlsym(library, "OrtGetApiBase"))();
    api = base->get_api(API_VERSION);
    if (!api) fail(words[1], "is older than onnxruntime 1.16");
    void *env, *options, *session;
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    long base_kb = usage.ru_maxrss;
    double start = now_ms();
    check(((void *(*)(int, const char *, void **))api[CREATE_ENV])(WARNINGS_OFF, "run", &env), "env");
    check(((void *(*)(void **))api[CREATE_SESSION_OPTIONS])(&options), "options");
    check(((void *(*)(void *, int))api[SET_INTRA_OP_THREADS])(options, threads), "threads");
    check(((void *(*)(void *, int))api[SET_INTER_OP_THREADS])(options, 1), "threads");
    check(((void *(*)(void *, const char *, void *, void **))api[CREATE_SESSION])(env, words[2], options, &session),
          words[2]);
    double load_ms = now_ms() - start, *times = calloc((size_t)(runs > 0 ? runs : 1), sizeof *times);
    read_tensors(words[3]);
    for (int i = 0; i < warm_up; i++) run_once(session);
    syscall(SYS_getppid);
    for (int i = 0; i < runs; i++) {
        start = now_ms();
        run_once(session);
        times[i] = now_ms() - start;
        syscall(SYS_getppid);
    }
    write_outputs(words[4]);
    getrusage(RUSAGE_SELF, &usage);
    printf("{\"onnxruntime\": \"%s\", \"load_ms\": %.4f, \"base_kb\": %ld, \"peak_kb\": %ld, \"times_ms\": [",
           base->get_version(), load_ms, base_kb, usage.ru_maxrss);
    for (int i = 0; i < runs; i++) printf("%s%.6f", i ? ", " : "", times[i]);
    printf("]}\n");
    return 0;
}
