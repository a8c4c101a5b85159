// Run the student with onnxruntime's C++ API alone:
//
//     build/predict ../..              the golden check, then what the first golden example is
//     build/predict ../.. photo.ppm    what a picture is
//
// The golden check tells whether this machine gives the outputs that the student was shipped with. README.md says how to
// build. For your app take `Runner`, `say` and student.hpp.
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <exception>
#include <iostream>
#include <limits>

#include "student.hpp"

class Runner {
public:
    explicit Runner(const std::filesystem::path& folder) : facts(student::read_facts(folder)) {
        const student::Bytes model = student::read_file(folder / "model.onnx");
        Ort::SessionOptions options;
        options.SetIntraOpNumThreads(1);
        session = Ort::Session(env, model.data(), model.size(), options);
    }

    // The first output for `inputs`, which keep the data while it runs.
    std::vector<float> predict(std::vector<student::Array>& inputs) {
        const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
        std::vector<const char*> names;
        std::vector<Ort::Value> values;
        for (student::Array& input : inputs) {
            names.push_back(input.name.c_str());
            values.push_back(Ort::Value::CreateTensor(memory, input.data.data(), input.data.size(), input.shape.data(),
                                                      input.shape.size(), type_of(input.type)));
        }
        const char* wanted = facts.outputs.front().name.c_str();
        const auto outputs = session.Run(Ort::RunOptions{nullptr}, names.data(), values.data(), values.size(), &wanted, 1);
        const float* first = outputs.front().GetTensorData<float>();
        return {first, first + outputs.front().GetTensorTypeAndShapeInfo().GetElementCount()};
    }

    student::Facts facts;

private:
    static ONNXTensorElementDataType type_of(const std::string& type) {
        static const std::map<std::string, ONNXTensorElementDataType> types{
            {"float32", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT}, {"float64", ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE},
            {"uint8", ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8},   {"int8", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8},
            {"int32", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32},   {"int64", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64},
            {"bool", ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL}};
        return types.at(type);
    }

    Ort::Env env{ORT_LOGGING_LEVEL_ERROR, "student"};
    Ort::Session session{nullptr};
};

// One row of outputs in words.
std::string say(const student::Facts& facts, const std::vector<float>& row) {
    std::ostringstream said;
    if (facts.classes.empty()) {
        said << "value";
        for (std::size_t i = 0; i < row.size(); ++i) said << (i ? ", " : " ") << row[i];
        return said.str();
    }
    if (facts.classes.size() != row.size()) throw std::runtime_error("the outputs are not as many as the classes");
    if (facts.kind != "multilabel") {
        const auto best = std::max_element(row.begin(), row.end()) - row.begin();
        return "class " + facts.classes[static_cast<std::size_t>(best)];
    }
    const char* between = " ";
    said << "labels";
    for (std::size_t i = 0; i < row.size(); ++i) {
        if (row[i] > 0) said << between << facts.classes[i], between = ", ";
    }
    return said.str();
}

bool check_golden(Runner& runner) {
    const std::vector<float> found = runner.predict(runner.facts.inputs);
    const student::Array& wanted = runner.facts.outputs.front();
    double largest = found.size() * sizeof(float) == wanted.data.size() ? 0 : std::numeric_limits<double>::infinity();
    for (std::size_t i = 0; std::isfinite(largest) && i < found.size(); ++i) {
        float expected;
        std::memcpy(&expected, &wanted.data[i * sizeof expected], sizeof expected);
        const double off = std::abs(static_cast<double>(found[i]) - expected);
        largest = off <= largest ? largest : off;  // NaN is kept, and fails
    }
    const bool good = largest <= runner.facts.tolerance;
    std::printf("golden check: %s (off by %.3g, allowed %.3g)\n", good ? "ok" : "FAILED", largest, runner.facts.tolerance);
    std::printf("predicted: %s\n", say(runner.facts, found).c_str());
    return good;
}

int main(int count, char** words) try {
    if (count < 2 || count > 3) throw std::runtime_error("usage: predict FOLDER [PICTURE.ppm]");
    Runner runner(words[1]);
    if (count == 2) return check_golden(runner) ? 0 : 1;
    std::vector<student::Array> inputs{student::from_pixels(runner.facts, student::read_pnm(words[2]))};
    std::printf("%s: %s\n", words[2], say(runner.facts, runner.predict(inputs)).c_str());
    return 0;
} catch (const std::exception& error) {  // onnxruntime's errors are among them
    std::cerr << error.what() << '\n';
    return 1;
}
