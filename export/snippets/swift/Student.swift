// UNTESTED HERE: no Apple machine ran this file where it was written. It follows the same manifest as the tested Python,
// JavaScript, C and C++ programs; run `checkGolden` on a device before you trust it.
//
// Swift package "onnxruntime" of Microsoft's onnxruntime-swift-package-manager, 1.20 or newer (CocoaPods: onnxruntime-objc).
// Add the student's folder to the app as a folder reference.

import CoreGraphics
import Foundation
import ImageIO
import OnnxRuntimeBindings

/// Raw little-endian values with their type (as in numpy) and shape, the batch first.
struct Input {
    let data: Data
    let dtype: String
    let shape: [Int]
}

struct StudentError: Error, CustomStringConvertible {
    let description: String
}

final class Student {
    private struct Spec: Decodable { let name: String; let dtype: String }
    private struct Picture: Decodable {
        let layout: String
        let height: Int?
        let width: Int?
        let channels: Int
        let white: Double
    }
    private struct Manifest: Decodable {
        let inputs: [Spec]
        let outputs: [Spec]
        let kind: String?
        let classes: [String]?
        let picture: Picture?
    }
    private struct Stored: Decodable { let file: String; let dtype: String; let shape: [Int] }
    private struct First: Decodable {
        let tolerance: Float
        let inputs: [String: Stored]
        let outputs: [String: Stored]
    }
    private struct Golden: Decodable { let first: First }

    private let folder: URL
    private let manifest: Manifest
    private let env: ORTEnv
    private let session: ORTSession

    init(folder: URL) throws {
        self.folder = folder
        manifest = try JSONDecoder().decode(Manifest.self, from: Data(contentsOf: folder.appendingPathComponent("manifest.json")))
        env = try ORTEnv(loggingLevel: ORTLoggingLevel.warning)
        session = try ORTSession(env: env, modelPath: folder.appendingPathComponent("model.onnx").path, sessionOptions: nil)
    }

    /// Named inputs to the first output's values: logits, or values.
    func predict(_ inputs: [String: Input]) throws -> [Float] {
        let values = try inputs.mapValues { input in
            try ORTValue(tensorData: NSMutableData(data: input.data), elementType: Student.type(of: input.dtype),
                         shape: input.shape.map { NSNumber(value: $0) })
        }
        let name = manifest.outputs[0].name
        let outputs = try session.run(withInputs: values, outputNames: [name], runOptions: nil)
        guard let output = outputs[name] else { throw StudentError(description: "there is no output \(name)") }
        return Student.floats(try output.tensorData() as Data)
    }

    /// What a picture is. The image must be as decoded: see `decode`.
    func classify(_ image: CGImage) throws -> String {
        nameOutput(try predict(fromImage(image)))
    }

    /// One row of outputs in words.
    func nameOutput(_ row: [Float]) -> String {
        guard let classes = manifest.classes else { return "value " + row.map { "\($0)" }.joined(separator: ", ") }
        if manifest.kind == "multilabel" {
            return "labels " + row.indices.filter { row[$0] > 0 }.map { classes[$0] }.joined(separator: ", ")
        }
        let best = row.indices.max { row[$0] < row[$1] } ?? 0
        return "class " + classes[best]
    }

    /// Decoded RGB pixels as the student's input. Nothing is resized: the graph does that where sides may vary.
    func fromImage(_ image: CGImage) throws -> [String: Input] {
        guard let picture = manifest.picture else { throw StudentError(description: "this student takes no pictures") }
        let (height, width, channels) = (image.height, image.width, picture.channels)
        guard (picture.height ?? height) == height, (picture.width ?? width) == width else {
            throw StudentError(description: "resize the picture as its data were")
        }
        let rgbx = try Student.pixels(of: image)
        let spec = manifest.inputs[0]
        var bytes = [UInt8](), floats = [Float]()
        let isByte = spec.dtype == "uint8"
        if isByte { bytes = [UInt8](repeating: 0, count: height * width * channels) }
        else { floats = [Float](repeating: 0, count: height * width * channels) }
        for i in 0..<(height * width) {
            let rgb = (0..<3).map { Int(rgbx[4 * i + $0]) }
            let grey = (19595 * rgb[0] + 38470 * rgb[1] + 7471 * rgb[2] + 32768) >> 16 // ITU-R 601
            for c in 0..<channels {
                let value = Double(channels == 1 ? grey : rgb[c]) * picture.white / 255
                let place = picture.layout == "chw" ? c * height * width + i : i * channels + c
                if isByte { bytes[place] = UInt8(value.rounded()) } else { floats[place] = Float(value) }
            }
        }
        let shapes = ["hwc": [1, height, width, channels], "chw": [1, channels, height, width], "hw": [1, height, width]]
        let data = isByte ? Data(bytes) : floats.withUnsafeBytes { Data($0) }
        return [spec.name: Input(data: data, dtype: spec.dtype, shape: shapes[picture.layout]!)]
    }

    /// Whether this device gives what the student gave where it was made, on its first golden example.
    func checkGolden() throws -> Bool {
        let url = folder.appendingPathComponent("golden.json")
        let first = try JSONDecoder().decode(Golden.self, from: Data(contentsOf: url)).first
        let found = try predict(first.inputs.mapValues { try read($0) })
        guard let entry = first.outputs[manifest.outputs[0].name] else { return false }
        let wanted = Student.floats(try read(entry).data)
        return found.count == wanted.count && zip(found, wanted).allSatisfy { abs($0 - $1) <= first.tolerance }
    }

    /// A picture file as its pixels are stored: not turned, not resized.
    static func decode(_ url: URL) -> CGImage? {
        guard let source = CGImageSourceCreateWithURL(url as CFURL, nil) else { return nil }
        return CGImageSourceCreateImageAtIndex(source, 0, nil)
    }

    /// Four bytes a pixel. Drawn in the image's own colour space, so that no value is converted.
    private static func pixels(of image: CGImage) throws -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: 4 * image.width * image.height)
        let own = image.colorSpace.flatMap { $0.model == .rgb ? $0 : nil }
        let drawn = bytes.withUnsafeMutableBytes { memory -> Bool in
            guard let context = CGContext(data: memory.baseAddress, width: image.width, height: image.height,
                                          bitsPerComponent: 8, bytesPerRow: 4 * image.width,
                                          space: own ?? CGColorSpaceCreateDeviceRGB(),
                                          bitmapInfo: CGImageAlphaInfo.noneSkipLast.rawValue) else { return false }
            context.draw(image, in: CGRect(x: 0, y: 0, width: image.width, height: image.height))
            return true
        }
        guard drawn else { throw StudentError(description: "the picture cannot be drawn into memory") }
        return bytes
    }

    private func read(_ entry: Stored) throws -> Input {
        Input(data: try Data(contentsOf: folder.appendingPathComponent(entry.file)), dtype: entry.dtype, shape: entry.shape)
    }

    private static func floats(_ data: Data) -> [Float] {
        var values = [Float](repeating: 0, count: data.count / MemoryLayout<Float>.stride)
        _ = values.withUnsafeMutableBytes { data.copyBytes(to: $0) }
        return values
    }

    private static func type(of dtype: String) throws -> ORTTensorElementDataType {
        switch dtype {
        case "float32": return .float
        case "uint8": return .uInt8
        case "int8": return .int8
        case "int32": return .int32
        case "int64": return .int64
        default: throw StudentError(description: "onnxruntime's Swift package takes no \(dtype)")
        }
    }
}
