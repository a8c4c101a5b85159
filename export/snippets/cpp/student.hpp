// What an app in C++ needs beside onnxruntime: a student's facts and first golden example from `plain/`, and decoded
// pixels as its input. The standard library alone. Throws std::runtime_error that says what cannot be read.
#pragma once

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace student {

using Bytes = std::vector<char>;

struct Array {
    std::string name, type;  // type as in numpy: float32, uint8, int64, …
    std::vector<std::int64_t> shape;
    Bytes data;
};

struct PictureKind {
    std::string type, layout;             // layout: hwc, chw or hw
    long height = 0, width = 0, channels = 3;  // side 0: the picture's own
    double white = 255;                   // the value that stands for white
};

struct Facts {
    std::string name, kind;
    double tolerance = 0;
    std::optional<PictureKind> picture;  // none: the student takes no pictures
    std::vector<Array> inputs, outputs;  // the first golden example
    std::vector<std::string> classes;
};

// Decoded pixels, a row after the other; channels: 1 or 3 bytes a pixel. Your own decoder fills this as well.
struct Pixels {
    long height = 0, width = 0, channels = 3;
    std::vector<unsigned char> data;
};

inline Bytes read_file(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error(path.string() + " cannot be read");
    return Bytes(std::istreambuf_iterator<char>(file), {});
}

inline std::size_t bytes_of(const std::string& type) {
    static const std::map<std::string, std::size_t> sizes{{"float32", 4}, {"float64", 8}, {"int64", 8}, {"int32", 4},
                                                          {"int8", 1},    {"uint8", 1},   {"bool", 1}};
    const auto found = sizes.find(type);
    if (found == sizes.end()) throw std::runtime_error("no type is called " + type);
    return found->second;
}

// "TYPE D0,D1,… FILE NAME"
inline Array read_array(const std::filesystem::path& folder, std::istream& line) {
    Array array;
    std::string dims, file, dim;
    line >> array.type >> dims >> file >> std::ws;
    std::getline(line, array.name);
    if (array.name.empty() || file.find("..") != std::string::npos)
        throw std::runtime_error("plain/student.txt: no array " + file);
    std::size_t count = 1;
    for (std::istringstream rest(dims); std::getline(rest, dim, ',');) {
        array.shape.push_back(std::stoll(dim));
        count *= static_cast<std::size_t>(array.shape.back());
    }
    array.data = read_file(folder / file);
    if (array.data.size() != count * bytes_of(array.type))
        throw std::runtime_error(file + " does not hold what plain/student.txt says");
    return array;
}

inline Facts read_facts(const std::filesystem::path& folder) {
    std::ifstream text(folder / "plain" / "student.txt", std::ios::binary);
    if (!text) throw std::runtime_error((folder / "plain" / "student.txt").string() + " cannot be read");
    Facts facts;
    for (std::string whole, word; std::getline(text, whole);) {
        std::istringstream line(whole);
        const auto rest = [&line] {
            std::string said;
            std::getline(line, said);
            return said;
        };
        line >> word;
        line.get();
        if (word == "name") facts.name = rest();
        else if (word == "kind") facts.kind = rest();
        else if (word == "tolerance") line >> facts.tolerance;
        else if (word == "input") facts.inputs.push_back(read_array(folder, line));
        else if (word == "output") facts.outputs.push_back(read_array(folder, line));
        else if (word == "class") facts.classes.push_back(rest());
        else if (word == "picture") {
            PictureKind& kind = facts.picture.emplace();
            line >> kind.type >> kind.layout >> kind.height >> kind.width >> kind.channels >> kind.white;
        } else throw std::runtime_error("plain/student.txt: " + whole);
    }
    if (facts.inputs.empty() || facts.outputs.empty())
        throw std::runtime_error("plain/student.txt names no input or no output");
    return facts;
}

// The next number of a PNM header; comments run from # to the end of the line.
inline long next_number(std::istream& file) {
    for (std::string comment; (file >> std::ws).peek() == '#';) std::getline(file, comment);
    long number = 0;
    file >> number;
    return number;
}

// A binary PPM (P6) or PGM (P5) of 8 bits; for PNG, JPEG or a camera call your own decoder in its place.
inline Pixels read_pnm(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error(path.string() + " cannot be read");
    const int p = file.get(), magic = file.get();
    if (p != 'P' || (magic != '5' && magic != '6'))
        throw std::runtime_error(path.string() + " is no binary PPM (P6) or PGM (P5); PNG and JPEG need a decoder, "
                                                 "such as `convert photo.png photo.ppm`");
    Pixels pixels;
    pixels.channels = magic == '6' ? 3 : 1;
    pixels.width = next_number(file);
    pixels.height = next_number(file);
    const long most = next_number(file);
    if (pixels.width < 1 || pixels.height < 1 || pixels.width > 65535 || pixels.height > 65535 || most != 255)
        throw std::runtime_error(path.string() + ": sides must be 1 to 65535 and values up to 255");
    file.get();
    pixels.data.resize(static_cast<std::size_t>(pixels.height * pixels.width * pixels.channels));
    if (!file.read(reinterpret_cast<char*>(pixels.data.data()), static_cast<std::streamsize>(pixels.data.size())))
        throw std::runtime_error(path.string() + " breaks off");
    return pixels;
}

// Pixels as the student's input, a batch of one. Nothing is resized: the graph does that where sides may vary.
inline Array from_pixels(const Facts& facts, const Pixels& pixels) {
    if (!facts.picture) throw std::runtime_error("this student takes no pictures: its inputs are in manifest.json");
    const PictureKind& kind = *facts.picture;
    if ((kind.height && kind.height != pixels.height) || (kind.width && kind.width != pixels.width))
        throw std::runtime_error("the picture is " + std::to_string(pixels.width) + " x " + std::to_string(pixels.height) +
                                 "; this student takes " + std::to_string(kind.width) + " x " +
                                 std::to_string(kind.height) + ". Resize it as its data were");
    const bool planes = kind.layout == "chw";
    Array array{facts.inputs.front().name, kind.type, {1, pixels.height, pixels.width}, {}};
    if (kind.layout == "hwc") array.shape.push_back(kind.channels);
    if (planes) array.shape.insert(array.shape.begin() + 1, kind.channels);
    const std::size_t area = static_cast<std::size_t>(pixels.height * pixels.width);
    const std::size_t channels = static_cast<std::size_t>(kind.channels);
    array.data.resize(area * channels * bytes_of(kind.type));
    for (std::size_t i = 0; i < area; ++i) {
        const unsigned char* p = &pixels.data[i * static_cast<std::size_t>(pixels.channels)];
        const unsigned rgb[] = {p[0], p[pixels.channels == 1 ? 0 : 1], p[pixels.channels == 1 ? 0 : 2]};
        const unsigned grey = (19595 * rgb[0] + 38470 * rgb[1] + 7471 * rgb[2] + 32768) >> 16;  // ITU-R 601
        for (std::size_t c = 0; c < channels; ++c) {
            const double value = (channels == 1 ? grey : rgb[c]) * kind.white / 255;
            const std::size_t place = planes ? c * area + i : i * channels + c;
            if (kind.type == "uint8") {
                array.data[place] = static_cast<char>(static_cast<unsigned char>(value + 0.5));
            } else {
                const float one = static_cast<float>(value);
                std::memcpy(&array.data[place * sizeof one], &one, sizeof one);
            }
        }
    }
    return array;
}

}  // namespace student
