/** No camera is available or permitted. */
export class CameraError extends Error {}

const get = <T extends HTMLElement>(id: string) => document.getElementById(id) as T;

/** Show the camera in a dialog and return the photo; undefined if the dialog is cancelled. */
export async function takePhoto(): Promise<File | undefined> {
  let stream: MediaStream;
  try {
    // Without https, `mediaDevices` is undefined, which is caught below too.
    stream = await navigator.mediaDevices.getUserMedia({
      video: { facingMode: "environment", width: { ideal: 4096 }, height: { ideal: 4096 } },
    });
  } catch (error) {
    throw new CameraError("no camera", { cause: error });
  }
  const dialog = get<HTMLDialogElement>("viewfinder");
  const video = get<HTMLVideoElement>("view");
  const shoot = get<HTMLButtonElement>("shoot");
  try {
    return await new Promise((resolve, reject) => {
      shoot.disabled = true; // until the first frame
      video.onloadeddata = () => (shoot.disabled = false);
      shoot.onclick = () => capture(video).then(resolve, reject);
      get("leave").onclick = () => dialog.close();
      dialog.onclose = () => resolve(undefined);
      video.srcObject = stream;
      dialog.showModal();
    });
  } finally {
    for (const track of stream.getTracks()) track.stop();
    dialog.onclose = null;
    dialog.close();
  }
}

async function capture(video: HTMLVideoElement): Promise<File> {
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d")!.drawImage(video, 0, 0);
  const blob = await new Promise<Blob | null>((resolve) => canvas.toBlob(resolve));
  const time = new Date().toTimeString().slice(0, 8).replaceAll(":", "-");
  return new File([blob!], `camera-${time}.png`);
}
