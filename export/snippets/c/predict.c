/* Run the student with onnxruntime's C API alone:
 *
 *     build/predict ../..              the golden check, then what the first golden example is
 *     build/predict ../.. photo.ppm    what a picture is
 *
 * The golden check tells whether this machine gives the outputs that the student was shipped with. README.md says how to
 * build. For your app take `open_student`, `predict` and `say`, and student.h.
 */
#include <math.h>
#include <onnxruntime_c_api.h>

#include "student.h"

static const OrtApi *ort;

typedef struct {
    OrtEnv *env;
    OrtSession *session;
    OrtMemoryInfo *memory;
} Runner;

static void check(OrtStatus *status) {
    if (status) fail("onnxruntime: %s", ort->GetErrorMessage(status));
}

static Runner open_student(const char *folder) {
    const OrtApiBase *base = OrtGetApiBase();
    ort = base->GetApi(ORT_API_VERSION);
    if (!ort) fail("the library is onnxruntime %s, older than its header", base->GetVersionString());
    Runner runner;
    OrtSessionOptions *options;
    size_t size;
    void *model = read_file(folder, "model.onnx", &size);
    check(ort->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "student", &runner.env));
    check(ort->CreateSessionOptions(&options));
    check(ort->SetIntraOpNumThreads(options, 1));
    check(ort->CreateSessionFromArray(runner.env, model, size, options, &runner.session));
    check(ort->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &runner.memory));
    ort->ReleaseSessionOptions(options);
    free(model);
    return runner;
}

static void close_student(Runner *runner) {
    ort->ReleaseMemoryInfo(runner->memory);
    ort->ReleaseSession(runner->session);
    ort->ReleaseEnv(runner->env);
}

static ONNXTensorElementDataType type_of(const char *type) {
    if (!strcmp(type, "float32")) return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    if (!strcmp(type, "float64")) return ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE;
    if (!strcmp(type, "uint8")) return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
    if (!strcmp(type, "int8")) return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
    if (!strcmp(type, "int32")) return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
    if (!strcmp(type, "int64")) return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
    return ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL;
}

/* The first output for `inputs`, float32; `count` becomes the number of its values. The caller frees it. */
static float *predict(const Runner *runner, const Student *student, Array *inputs, size_t *count) {
    const char *names[MOST_ARRAYS], *output_name = student->outputs[0].name;
    OrtValue *values[MOST_ARRAYS], *output = NULL;
    for (size_t i = 0; i < student->input_count; i++) {
        size_t bytes = inputs[i].count * bytes_of(inputs[i].type);
        names[i] = inputs[i].name;
        check(ort->CreateTensorWithDataAsOrtValue(runner->memory, inputs[i].data, bytes, inputs[i].shape, inputs[i].rank,
                                                  type_of(inputs[i].type), &values[i]));
    }
    check(ort->Run(runner->session, NULL, names, (const OrtValue *const *)values, student->input_count, &output_name, 1,
                   &output));
    OrtTensorTypeAndShapeInfo *info;
    check(ort->GetTensorTypeAndShape(output, &info));
    check(ort->GetTensorShapeElementCount(info, count));
    float *found, *kept = take(*count * sizeof *kept);
    check(ort->GetTensorMutableData(output, (void **)&found));
    memcpy(kept, found, *count * sizeof *kept);
    ort->ReleaseTensorTypeAndShapeInfo(info);
    ort->ReleaseValue(output);
    for (size_t i = 0; i < student->input_count; i++) ort->ReleaseValue(values[i]);
    return kept;
}

/* One row of outputs in words. */
static void say(const Student *student, const float *row, size_t count) {
    if (student->class_count && student->class_count != count) fail("%zu outputs for %zu classes", count, student->class_count);
    if (!student->class_count) {
        printf("value");
        for (size_t i = 0; i < count; i++) printf("%s%.6g", i ? ", " : " ", row[i]);
    } else if (!strcmp(student->kind, "multilabel")) {
        const char *between = " ";
        printf("labels");
        for (size_t i = 0; i < count; i++) {
            if (row[i] > 0) printf("%s%s", between, student->classes[i]), between = ", ";
        }
    } else {
        size_t best = 0;
        for (size_t i = 1; i < count; i++) best = row[i] > row[best] ? i : best;
        printf("class %s", student->classes[best]);
    }
    printf("\n");
}

static int check_golden(const Runner *runner, Student *student) {
    const Array *wanted = &student->outputs[0];
    size_t count;
    float *found = predict(runner, student, student->inputs, &count);
    double largest = count == wanted->count ? 0 : INFINITY;
    for (size_t i = 0; i < count && count == wanted->count; i++) {
        double off = fabs((double)found[i] - ((const float *)wanted->data)[i]);
        largest = isnan(largest) || off <= largest ? largest : off; /* NaN is kept, and fails */
    }
    int good = largest <= student->tolerance;
    printf("golden check: %s (off by %.3g, allowed %.3g)\n", good ? "ok" : "FAILED", largest, student->tolerance);
    printf("predicted: ");
    say(student, found, count);
    free(found);
    return good;
}

int main(int count, char **words) {
    if (count < 2 || count > 3) fail("usage: predict FOLDER [PICTURE.ppm]");
    Student *student = read_student(words[1]);
    Runner runner = open_student(words[1]);
    int good = 1;
    if (count == 2) {
        good = check_golden(&runner, student);
    } else {
        Pixels pixels = read_pnm(words[2]);
        Array input = from_pixels(student, pixels);
        size_t outputs;
        float *found = predict(&runner, student, &input, &outputs);
        printf("%s: ", words[2]);
        say(student, found, outputs);
        free(found);
        free(input.data);
        free(pixels.data);
    }
    close_student(&runner);
    return good ? 0 : 1; /* the student itself lives as long as the program */
}
