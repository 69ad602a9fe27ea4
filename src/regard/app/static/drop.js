const zone = element.querySelector(".drop"), input = zone.querySelector("input"), said = zone.querySelector(".said");
const there = () => zone.offsetParent !== null;
async function take(file) {
  said.textContent = "";
  if (!file) return;
  if (file.size > props.most) { said.textContent = `${file.name} has ${(file.size / 1e6).toPrecision(3)} MB, and at most ${props.most_said} are taken.`; return; }
  zone.classList.add("busy");
  try { trigger("upload", {path: (await upload(file)).path}); }
  catch (e) { said.textContent = "The picture could not be sent: is the app still running?"; }
  zone.classList.remove("busy");
}
input.addEventListener("change", () => { take(input.files[0]); input.value = ""; });
const files = (event) => event.dataTransfer && [...event.dataTransfer.types].includes("Files");
addEventListener("dragover", (event) => { if (files(event) && there()) { event.preventDefault(); zone.classList.add("over"); } });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) zone.classList.remove("over"); });
addEventListener("drop", (event) => { if (files(event) && there()) { event.preventDefault(); zone.classList.remove("over"); take(event.dataTransfer.files[0]); } });
addEventListener("paste", (event) => { const file = event.clipboardData && event.clipboardData.files[0]; if (file && there()) take(file); });
