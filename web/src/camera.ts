/** There is none, or it may not be used. */
export class NoCamera extends Error {}

const get = <T extends HTMLElement>(id: string) => document.getElementById(id) as T;

/** Show what the camera sees until a photo is taken; undefined if none is wanted. */
export async function takePhoto(): Promise<File | undefined> {
  let stream: MediaStream;
  try {
    // Without https there is no `mediaDevices`, which ends here too.
    stream = await navigator.mediaDevices.getUserMedia({
      video: { facingMode: "environment", width: { ideal: 4096 }, height: { ideal: 4096 } },
    });
  } catch (error) {
    throw new NoCamera("no camera", { cause: error });
  }
  const dialog = get<HTMLDialogElement>("viewfinder");
  const video = get<HTMLVideoElement>("view");
  const shoot = get<HTMLButtonElement>("shoot");
  try {
    return await new Promise((resolve, reject) => {
      shoot.disabled = true; // until there is a picture
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
