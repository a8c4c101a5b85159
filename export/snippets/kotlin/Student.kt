// UNTESTED HERE: no Android SDK ran this file where it was written. It follows the same manifest as the tested Python,
// JavaScript, C and C++ programs; run `checkGolden` on a device before you trust it.
//
// build.gradle.kts:  implementation("com.microsoft.onnxruntime:onnxruntime-android:1.20.0")   (or newer)
// Copy model.onnx, manifest.json, golden.json and plain/ into app/src/main/assets/student/.

import ai.onnxruntime.OnnxJavaType
import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtSession
import android.content.res.AssetManager
import android.graphics.Bitmap
import android.graphics.BitmapFactory
import org.json.JSONArray
import org.json.JSONObject
import java.io.InputStream
import java.nio.ByteBuffer
import java.nio.ByteOrder
import kotlin.math.abs
import kotlin.math.roundToInt

/** Raw little-endian values with their type (as in numpy) and shape, the batch first. */
class Input(val data: ByteBuffer, val dtype: String, val shape: LongArray)

class Student(private val assets: AssetManager, private val folder: String = "student") : AutoCloseable {
    private val manifest = JSONObject(text("manifest.json"))
    private val env = OrtEnvironment.getEnvironment()
    private val session: OrtSession = env.createSession(bytes("model.onnx"), OrtSession.SessionOptions())
    private val output = manifest.getJSONArray("outputs").getJSONObject(0).getString("name")

    /** Named inputs to the first output's values: logits, or values. */
    fun predict(inputs: Map<String, Input>): FloatArray {
        val tensors = inputs.mapValues { (_, input) ->
            OnnxTensor.createTensor(env, input.data, input.shape, typeOf(input.dtype))
        }
        try {
            session.run(tensors, setOf(output)).use { result ->
                val values = (result[0] as OnnxTensor).floatBuffer
                return FloatArray(values.remaining()).also { values.get(it) }
            }
        } finally {
            tensors.values.forEach { it.close() }
        }
    }

    /** What a picture is. The bitmap must be as decoded: see `decode`. */
    fun classify(bitmap: Bitmap): String = nameOutput(predict(fromBitmap(bitmap)))

    /** One row of outputs in words. */
    fun nameOutput(row: FloatArray): String {
        val classes = manifest.optJSONArray("classes") ?: return "value " + row.joinToString(", ")
        if (manifest.optString("kind") == "multilabel") {
            return "labels " + row.indices.filter { row[it] > 0 }.joinToString(", ") { classes.getString(it) }
        }
        return "class " + classes.getString(row.indices.maxByOrNull { row[it] } ?: 0)
    }

    /** Decoded RGB pixels as the student's input. Nothing is resized: the graph does that where sides may vary. */
    fun fromBitmap(bitmap: Bitmap): Map<String, Input> {
        val picture = manifest.optJSONObject("picture") ?: error("this student takes no pictures")
        val (height, width) = bitmap.height to bitmap.width
        check(picture.isNull("height") || picture.getInt("height") == height) { "resize the picture as its data were" }
        check(picture.isNull("width") || picture.getInt("width") == width) { "resize the picture as its data were" }
        val argb = IntArray(height * width).also { bitmap.getPixels(it, 0, width, 0, 0, width, height) }
        val spec = manifest.getJSONArray("inputs").getJSONObject(0)
        val channels = picture.getInt("channels")
        val layout = picture.getString("layout")
        val isByte = spec.getString("dtype") == "uint8"
        val data = ByteBuffer.allocateDirect(height * width * channels * if (isByte) 1 else 4).order(ByteOrder.nativeOrder())
        for (i in argb.indices) {
            val rgb = intArrayOf(argb[i] shr 16 and 255, argb[i] shr 8 and 255, argb[i] and 255)
            val grey = 19595 * rgb[0] + 38470 * rgb[1] + 7471 * rgb[2] + 32768 shr 16 // ITU-R 601
            for (c in 0 until channels) {
                val value = (if (channels == 1) grey else rgb[c]) * picture.getDouble("white") / 255
                val place = if (layout == "chw") c * height * width + i else i * channels + c
                if (isByte) data.put(place, value.roundToInt().toByte()) else data.putFloat(4 * place, value.toFloat())
            }
        }
        val shape = when (layout) {
            "hw" -> longArrayOf(1, height.toLong(), width.toLong())
            "chw" -> longArrayOf(1, channels.toLong(), height.toLong(), width.toLong())
            else -> longArrayOf(1, height.toLong(), width.toLong(), channels.toLong())
        }
        return mapOf(spec.getString("name") to Input(data, spec.getString("dtype"), shape))
    }

    /** Whether this device gives what the student gave where it was made, on its first golden example. */
    fun checkGolden(): Boolean {
        val first = JSONObject(text("golden.json")).getJSONObject("first")
        val inputs = first.getJSONObject("inputs")
        val found = predict(inputs.keys().asSequence().associateWith { read(inputs.getJSONObject(it)) })
        val wanted = read(first.getJSONObject("outputs").getJSONObject(output)).data.asFloatBuffer()
        if (found.size != wanted.remaining()) return false
        val tolerance = first.getDouble("tolerance")
        return found.indices.all { abs(found[it] - wanted.get(it)) <= tolerance } // NaN is within nothing
    }

    override fun close() = session.close()

    private fun read(entry: JSONObject): Input {
        val bytes = bytes(entry.getString("file"))
        val data = ByteBuffer.allocateDirect(bytes.size).order(ByteOrder.LITTLE_ENDIAN).put(bytes)
        data.rewind()
        val shape: JSONArray = entry.getJSONArray("shape")
        return Input(data, entry.getString("dtype"), LongArray(shape.length()) { shape.getLong(it) })
    }

    private fun typeOf(dtype: String): OnnxJavaType = when (dtype) {
        "float32" -> OnnxJavaType.FLOAT
        "float64" -> OnnxJavaType.DOUBLE
        "uint8" -> OnnxJavaType.UINT8
        "int8" -> OnnxJavaType.INT8
        "int32" -> OnnxJavaType.INT32
        "int64" -> OnnxJavaType.INT64
        "bool" -> OnnxJavaType.BOOL
        else -> error("no type is called $dtype")
    }

    private fun bytes(name: String): ByteArray = assets.open("$folder/$name").use { it.readBytes() }

    private fun text(name: String): String = bytes(name).toString(Charsets.UTF_8)

    companion object {
        /** A picture file as its pixels are stored: not scaled to the screen, not premultiplied, not turned. */
        fun decode(stream: InputStream): Bitmap? {
            val options = BitmapFactory.Options()
            options.inScaled = false
            options.inPremultiplied = false
            options.inPreferredConfig = Bitmap.Config.ARGB_8888
            return BitmapFactory.decodeStream(stream, null, options)
        }
    }
}
