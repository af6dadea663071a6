// Classify images in the browser with a file of `leanconv export --to onnx`. It uses onnxruntime-web, which index.html loads.
// The file's own metadata tell how an image is prepared and what the outputs are called.

const PROPS = 14; // metadata_props of ONNX's ModelProto: pairs of key (field 1) and value (field 2)

/** The metadata of an ONNX file, an object of texts. onnxruntime-web does not give them, so this reads the protobuf itself. */
export function metadataOf(bytes) {
  const found = {};
  for (const [field, part] of fields(bytes)) {
    if (field !== PROPS) continue;
    const pair = Object.fromEntries([...fields(part)].map(([number, text]) => [number, new TextDecoder().decode(text)]));
    found[pair[1]] = pair[2];
  }
  return found;
}

/** The fields of a protobuf message that have a length: [number, bytes]. */
function* fields(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0, factor = 1, byte;
    do {
      byte = bytes[at++];
      value += (byte & 127) * factor;
      factor *= 128;
    } while (byte & 128);
    return value;
  };
  while (at < bytes.length) {
    const tag = varint(), kind = tag % 8;
    if (kind === 0) varint();
    else if (kind === 1) at += 8;
    else if (kind === 5) at += 4;
    else if (kind === 2) {
      const length = varint();
      yield [Math.floor(tag / 8), bytes.subarray(at, at + length)];
      at += length;
    } else throw new Error("this is no ONNX file");
  }
}

/** The task in an ONNX file: classes, mean, std, image_size. */
export function taskOf(bytes) {
  const text = metadataOf(bytes).task;
  if (!text) {
    throw new Error(
      "the file holds no task (classes, mean, std, image size); export it again: " +
        "leanconv export NETWORK --classes cat,dog --like timm -o files/",
    );
  }
  return JSON.parse(text);
}

/** Red, green, blue and alpha of each pixel, at the network's size; another size is scaled and cropped at the centre. */
export function pixelsOf(image, [height, width]) {
  const canvas = new OffscreenCanvas(width, height), context = canvas.getContext("2d", { willReadFrequently: true });
  const same = image.width === width && image.height === height;
  // the shorter side becomes 256 / 224 of the network's, as in leanconv's tests
  const scale = same ? 1 : ((256 / 224) * Math.min(height, width)) / Math.min(image.height, image.width);
  const [w, h] = [image.width * scale, image.height * scale];
  context.imageSmoothingQuality = "high";
  context.drawImage(image, (width - w) / 2, (height - h) / 2, w, h);
  return context.getImageData(0, 0, width, height).data;
}

/** The pixels as the network takes them: (1, C, H, W), each channel normalised; one channel is grey. */
export function inputOf(pixels, task) {
  const count = pixels.length / 4, channels = task.mean.length, input = new Float32Array(channels * count);
  for (let at = 0; at < count; at++) {
    const [r, g, b] = pixels.subarray(4 * at, 4 * at + 3);
    const values = channels === 1 ? [Math.round(0.299 * r + 0.587 * g + 0.114 * b)] : [r, g, b];
    values.forEach((value, c) => (input[c * count + at] = (value / 255 - task.mean[c]) / task.std[c]));
  }
  return input;
}

/** A function that gives the likeliest class of an image and its confidence. */
export async function open(bytes, ort) {
  const task = taskOf(bytes);
  const session = await ort.InferenceSession.create(bytes);
  return async (image) => {
    const input = inputOf(pixelsOf(image, task.image_size), task);
    const tensor = new ort.Tensor("float32", input, [1, task.mean.length, ...task.image_size]);
    const answer = await session.run({ [session.inputNames[0]]: tensor });
    const logits = answer[session.outputNames[0]].data, largest = Math.max(...logits);
    const weights = Array.from(logits, (value) => Math.exp(value - largest)), best = logits.indexOf(largest);
    const sum = weights.reduce((a, b) => a + b, 0);
    return { label: task.classes[best] ?? String(best), confidence: weights[best] / sum };
  };
}
