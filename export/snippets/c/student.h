/* What an app in C needs beside onnxruntime: a student's facts and first golden example from `plain/`, and decoded
 * pixels as its input. Standard C alone. What cannot be read ends the program with a line that says why. */
#ifndef STUDENT_H
#define STUDENT_H

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_ARRAYS = 16, MOST_DIMS = 8, LINE = 4096 };

typedef struct {
    char name[LINE], type[16]; /* type as in numpy: float32, uint8, int64, … */
    int64_t shape[MOST_DIMS];
    size_t rank, count; /* count: of values */
    void *data;
} Array;

typedef struct {
    char type[16], layout[8];      /* layout: hwc, chw or hw; empty: the student takes no pictures */
    long height, width, channels;  /* side 0: the picture's own */
    double white;                  /* the value that stands for white */
} PictureKind;

typedef struct {
    char name[LINE], kind[32];
    double tolerance;
    PictureKind picture;
    Array inputs[MOST_ARRAYS], outputs[MOST_ARRAYS]; /* the first golden example */
    size_t input_count, output_count;
    char **classes;
    size_t class_count;
} Student;

/* Decoded pixels, a row after the other; channels: 1 or 3 bytes a pixel. Your own decoder fills this as well. */
typedef struct {
    long height, width, channels;
    unsigned char *data;
} Pixels;

static void fail(const char *format, ...) {
    va_list rest;
    va_start(rest, format);
    vfprintf(stderr, format, rest);
    va_end(rest);
    fputc('\n', stderr);
    exit(1);
}

static void *take(size_t bytes) {
    void *memory = calloc(bytes ? bytes : 1, 1);
    if (!memory) fail("no memory for %zu bytes", bytes);
    return memory;
}

static void *read_file(const char *folder, const char *name, size_t *size) {
    char path[2 * LINE];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END)) fail("%s cannot be read", path);
    long length = ftell(file);
    rewind(file);
    if (length < 0) fail("%s cannot be read", path);
    char *data = take((size_t)length + 1); /* one more: text ends with 0 */
    if (fread(data, 1, (size_t)length, file) != (size_t)length) fail("%s cannot be read", path);
    fclose(file);
    *size = (size_t)length;
    return data;
}

static size_t bytes_of(const char *type) {
    static const struct { const char *name; size_t bytes; } TYPES[] = {
        {"float32", 4}, {"float64", 8}, {"int64", 8}, {"int32", 4}, {"int8", 1}, {"uint8", 1}, {"bool", 1}};
    for (size_t i = 0; i < sizeof TYPES / sizeof *TYPES; i++)
        if (!strcmp(type, TYPES[i].name)) return TYPES[i].bytes;
    fail("no type is called %s", type);
    return 0;
}

/* "TYPE D0,D1,… FILE NAME" */
static void read_array(const char *folder, const char *line, Array *array) {
    char dims[256], file[512];
    int at = 0;
    if (sscanf(line, "%15s %255s %511s %n", array->type, dims, file, &at) != 3 || strstr(file, ".."))
        fail("plain/student.txt: %s", line);
    snprintf(array->name, sizeof array->name, "%s", line + at);
    array->count = 1;
    for (char *one = strtok(dims, ","); one && array->rank < MOST_DIMS; one = strtok(NULL, ",")) {
        array->shape[array->rank] = atoll(one);
        array->count *= (size_t)array->shape[array->rank++];
    }
    size_t size;
    array->data = read_file(folder, file, &size);
    if (size != array->count * bytes_of(array->type)) fail("%s does not hold what plain/student.txt says", file);
}

/* The rest of the line if it starts with this word and a space. */
static const char *after(const char *line, const char *word) {
    size_t length = strlen(word);
    return !strncmp(line, word, length) && line[length] == ' ' ? line + length + 1 : NULL;
}

static void read_line(Student *student, const char *folder, const char *line) {
    PictureKind *picture = &student->picture;
    const char *rest;
    if ((rest = after(line, "name"))) {
        snprintf(student->name, sizeof student->name, "%s", rest);
    } else if ((rest = after(line, "kind"))) {
        snprintf(student->kind, sizeof student->kind, "%s", rest);
    } else if ((rest = after(line, "tolerance"))) {
        student->tolerance = atof(rest);
    } else if ((rest = after(line, "picture"))) {
        if (sscanf(rest, "%15s %7s %ld %ld %ld %lf", picture->type, picture->layout, &picture->height, &picture->width,
                   &picture->channels, &picture->white) != 6)
            fail("plain/student.txt: %s", line);
    } else if ((rest = after(line, "input")) && student->input_count < MOST_ARRAYS) {
        read_array(folder, rest, &student->inputs[student->input_count++]);
    } else if ((rest = after(line, "output")) && student->output_count < MOST_ARRAYS) {
        read_array(folder, rest, &student->outputs[student->output_count++]);
    } else if ((rest = after(line, "class"))) {
        student->classes = realloc(student->classes, (student->class_count + 1) * sizeof *student->classes);
        if (!student->classes) fail("no memory for the classes");
        student->classes[student->class_count] = take(strlen(rest) + 1);
        strcpy(student->classes[student->class_count++], rest);
    } else {
        fail("plain/student.txt: %s", line);
    }
}

static Student *read_student(const char *folder) {
    Student *student = take(sizeof *student);
    size_t size;
    char *text = read_file(folder, "plain/student.txt", &size);
    for (char *line = text, *end; *line; line = end + 1) {
        if (!(end = strchr(line, '\n'))) fail("plain/student.txt breaks off");
        *end = 0;
        read_line(student, folder, line);
    }
    free(text);
    if (!student->input_count || !student->output_count) fail("plain/student.txt names no input or no output");
    return student;
}

/* The next number of a PNM header; comments run from # to the end of the line. */
static long next_number(FILE *file) {
    int c = fgetc(file);
    while (c == '#' || c == ' ' || c == '\t' || c == '\r' || c == '\n') {
        if (c == '#') while (c != '\n' && c != EOF) c = fgetc(file);
        if (c != EOF) c = fgetc(file);
    }
    long number = 0;
    for (; c >= '0' && c <= '9' && number < 100000; c = fgetc(file)) number = 10 * number + (c - '0');
    return number; /* the one byte after it is read, as the format wants */
}

/* A binary PPM (P6) or PGM (P5) of 8 bits; for PNG, JPEG or a camera call your own decoder in its place. */
static Pixels read_pnm(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) fail("%s cannot be read", path);
    int magic[2] = {fgetc(file), fgetc(file)};
    if (magic[0] != 'P' || (magic[1] != '5' && magic[1] != '6'))
        fail("%s is no binary PPM (P6) or PGM (P5); PNG and JPEG need a decoder, such as `convert photo.png photo.ppm`", path);
    Pixels pixels = {.channels = magic[1] == '6' ? 3 : 1};
    pixels.width = next_number(file);
    pixels.height = next_number(file);
    long most = next_number(file);
    if (pixels.width < 1 || pixels.height < 1 || pixels.width > 65535 || pixels.height > 65535 || most != 255)
        fail("%s is %ld x %ld with values up to %ld. Allowed: sides up to 65535 and values up to 255", path, pixels.width,
             pixels.height, most);
    size_t bytes = (size_t)pixels.height * (size_t)pixels.width * (size_t)pixels.channels;
    pixels.data = take(bytes);
    if (fread(pixels.data, 1, bytes, file) != bytes) fail("%s breaks off", path);
    fclose(file);
    return pixels;
}

/* Pixels as the student's input, a batch of one. Nothing is resized: the graph does that where sides may vary. */
static Array from_pixels(const Student *student, Pixels pixels) {
    const PictureKind *kind = &student->picture;
    if (!kind->layout[0]) fail("this student takes no pictures: its inputs are in manifest.json");
    if ((kind->height && kind->height != pixels.height) || (kind->width && kind->width != pixels.width))
        fail("the picture is %ld x %ld; this student takes %ld x %ld. Resize it as its data were", pixels.width,
             pixels.height, kind->width, kind->height);
    Array array = {.rank = 4, .shape = {1, pixels.height, pixels.width, kind->channels}};
    if (!strcmp(kind->layout, "hw")) array.rank = 3;
    if (!strcmp(kind->layout, "chw"))
        array = (Array){.rank = 4, .shape = {1, kind->channels, pixels.height, pixels.width}};
    snprintf(array.name, sizeof array.name, "%s", student->inputs[0].name);
    snprintf(array.type, sizeof array.type, "%s", kind->type);
    size_t area = (size_t)pixels.height * (size_t)pixels.width, channels = (size_t)kind->channels;
    array.count = area * channels;
    array.data = take(array.count * bytes_of(array.type));
    for (size_t i = 0; i < area; i++) {
        const unsigned char *p = pixels.data + i * (size_t)pixels.channels;
        unsigned rgb[3] = {p[0], p[pixels.channels == 1 ? 0 : 1], p[pixels.channels == 1 ? 0 : 2]};
        unsigned grey = (19595 * rgb[0] + 38470 * rgb[1] + 7471 * rgb[2] + 32768) >> 16; /* the weights of ITU-R 601 */
        for (size_t c = 0; c < channels; c++) {
            double value = (channels == 1 ? grey : rgb[c]) * kind->white / 255;
            size_t place = strcmp(kind->layout, "chw") ? i * channels + c : c * area + i;
            if (!strcmp(array.type, "uint8")) ((unsigned char *)array.data)[place] = (unsigned char)(value + 0.5);
            else ((float *)array.data)[place] = (float)value;
        }
    }
    return array;
}

#endif
