"""How the page looks, and its little scripts. Fonts are the system's own: nothing is asked of any other machine."""

from __future__ import annotations

from typing import Any

FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
MONO = ("ui-monospace", "Consolas", "Liberation Mono", "monospace")

HEADER = """<header id="head"><h1>Regard</h1>
<p>What does a model's prediction rest on, and how far can the answer be believed?</p></header>"""
FOOTER = """<p id="foot">The stronger the <b class="for">orange</b>, the more the prediction rests on that part; in a map with
two colours, <b class="against">blue</b> speaks against it. The verdict above a map comes from a test: what the map points at is
taken away from the input, and so are as many parts chosen at random.</p>"""

CSS = """
:root{--ink:#1b1d22;--faint:#565b65;--line:#d5d8de;--sheet:#fff;--ground:#f5f6f8;--accent:#0b62b8}
.dark{--ink:#e6e8ec;--faint:#a3a9b5;--line:#363b45;--sheet:#14161b;--ground:#0e1014;--accent:#7db8f5}
body,gradio-app{background:var(--ground)!important}
.gradio-container{max-width:84rem!important;margin:0 auto!important;padding:1.1rem clamp(.7rem,2.2vw,2rem) 2rem!important;background:none!important}
.gradio-container>.main,.gradio-container .wrap.fillable{padding:0!important;max-width:none!important}
#head{display:flex;flex-wrap:wrap;gap:.1rem 1rem;align-items:baseline;margin:0 0 .3rem} #head h1{font-size:1.5rem;font-weight:680;letter-spacing:-.01em;margin:0;color:var(--ink)} #head p{margin:0;color:var(--faint);font-size:1.02rem}
#house{display:grid!important;grid-template-columns:20.5rem minmax(0,1fr);grid-template-areas:"given shown" "asked shown";grid-template-rows:auto 1fr;gap:1.1rem 1.6rem!important;align-items:start}
#given{grid-area:given} #shown{grid-area:shown} #asked{grid-area:asked}
#given,#shown,#asked{min-width:0!important;width:auto!important;gap:.8rem!important}
#given .block,#asked .block{border:0!important;background:none!important;box-shadow:none!important;padding:0!important;overflow:visible!important}
#given .form,#asked .form{border:0!important;background:none!important;box-shadow:none!important;gap:.8rem!important;overflow:visible!important}
#given span[data-testid=block-info]+div,#asked span[data-testid=block-info]+div{color:var(--faint)}
#given .wrap-inner,#asked .wrap-inner{border:0}
.html-container{padding:0!important} .block .html-container{overflow:visible}
.caption{margin:0 0 .35rem;font-size:.85rem;color:var(--faint)}
.examples{display:flex;flex-wrap:wrap;gap:.4rem} .examples button{font:inherit;color:var(--ink);background:var(--sheet);border:1px solid var(--line);border-radius:8px;padding:0;margin:0;cursor:pointer;overflow:hidden;min-height:44px;line-height:1.3}
.examples button:hover{border-color:var(--faint)} .examples button[aria-pressed=true]{outline:2px solid var(--accent);outline-offset:1px}
.examples img{display:block;width:4.1rem;height:3.6rem;object-fit:cover;margin:0} .examples .words,.examples .both{width:100%;text-align:left;font-size:.9rem;line-height:1.35}
.examples .words{padding:.45rem .65rem} .examples .words span{display:-webkit-box;-webkit-line-clamp:2;-webkit-box-orient:vertical;overflow:hidden} .examples .both{display:flex;gap:.6rem;align-items:center} .examples .both img{flex:none;width:3.2rem;height:3.2rem} .examples .both span{padding:.2rem .5rem .2rem 0}
.drop{display:block;position:relative;border:1.5px dashed var(--faint);border-radius:10px;padding:.7rem .9rem;text-align:center;color:var(--ink);cursor:pointer;background:var(--sheet);font-size:.95rem} .drop small{display:block;color:var(--faint);font-size:.8rem} .drop b{font-weight:600} .drop u{color:var(--accent)}
.drop input{position:absolute;inset:0;opacity:0;cursor:pointer;width:100%;height:100%} .drop:focus-within,.drop.over{outline:3px solid var(--accent);outline-offset:2px} .drop.busy{opacity:.55}
.drop .touch{display:none} .drop .said:not(:empty){display:block;margin-top:.35rem;color:#b3261e;font-weight:550} .dark .drop .said{color:#ff9d94}
#maps{display:flex;flex-wrap:wrap;gap:1rem!important;align-items:stretch} #maps>*{flex:1 1 21rem!important;min-width:min(21rem,100%)!important}
#maps .block{padding:0!important;border:0!important;background:none!important;box-shadow:none!important;overflow:visible!important}
.pane{background:var(--sheet);border:1px solid var(--line);border-radius:12px;padding:1.1rem clamp(.9rem,2vw,1.5rem) .9rem;color:var(--ink)} .pane h2{font-size:.95rem;font-weight:600;color:var(--faint);margin:0 0 .7rem;overflow-wrap:anywhere}
.pane iframe{display:block;width:100%;height:38rem;border:0;background:var(--sheet)} .pane .told{margin:0 0 .7rem;font-size:.92rem;color:var(--faint)}
.pane .after{margin:.5rem 0 0} .pane .save{font:inherit;font-size:.9rem;color:var(--ink);background:var(--ground);border:1px solid var(--line);border-radius:6px;padding:.25rem .7rem;cursor:pointer;min-height:2rem} .pane .save:disabled{opacity:.5;cursor:default}
.refused{margin:0;padding:.2rem 0 .2rem .9rem;border-left:4px solid #b3261e;font-size:1.05rem;color:var(--ink)}
#foot{color:var(--faint);font-size:.9rem;max-width:56rem;margin:.4rem 0 0} #foot .for,#foot .against{font-weight:600;color:var(--ink)} #foot .for::before,#foot .against::before{content:"";display:inline-block;width:.75em;height:.75em;margin-right:.3em;border-radius:2px;background:rgb(213 94 0)} #foot .against::before{background:rgb(20 130 225)}
:is(.examples button,.save):focus-visible{outline:3px solid var(--accent);outline-offset:2px}
footer{display:none!important}
@media (max-width:60rem){#house{grid-template-columns:minmax(0,1fr);grid-template-areas:"given" "shown" "asked";grid-template-rows:none} .examples{flex-wrap:nowrap;overflow-x:auto;padding:3px;margin:-3px;scrollbar-width:thin} .examples button{flex:none} .examples .words,.examples .both{width:min(15rem,70vw)}}
@media (max-width:40rem){#head p,#given .caption{display:none} #house{gap:.8rem!important} .gradio-container{padding-top:.6rem!important} #given{gap:.6rem!important} #model label>span,#model .label-wrap,#model span[data-testid=block-info]{display:none} .drop{padding:.55rem .8rem!important} .drop small,.drop .mouse{display:none} .drop .touch{display:inline} .pane{padding-top:.8rem}}
@media (pointer:coarse){.pane .save{min-height:44px} .drop{padding:.9rem}}
"""

# The page's frame tells its height; a page is saved as it stands in the frame.
HEAD = """<script>
addEventListener("message", (event) => {
  const height = event.data && event.data.regardHeight;
  if (typeof height !== "number" || !(height > 0)) return;
  for (const frame of document.querySelectorAll(".pane iframe")) {
    if (frame.contentWindow === event.source) frame.style.height = Math.min(Math.ceil(height) + 2, 20000) + "px";
  }
});
addEventListener("click", (event) => {
  const button = event.target.closest && event.target.closest(".pane .save");
  if (!button) return;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([button.closest(".pane").querySelector("iframe").srcdoc], {type: "text/html"}));
  link.download = button.dataset.name.replace(/[^\\p{L}\\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 80) + ".html";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
});
</script>"""

CHOOSE = """
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-example]");
  if (button) trigger("click", {example: Number(button.dataset.example)});
});"""

DROP = """
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
"""


def theme(gr: Any) -> Any:
    """Gradio's plainest theme with the report's colours and the system's fonts."""
    made = gr.themes.Base(primary_hue="blue", neutral_hue="gray", font=FONT, font_mono=MONO, radius_size="md")
    return made.set(
        body_background_fill="#f5f6f8",
        body_background_fill_dark="#0e1014",
        body_text_color="#1b1d22",
        body_text_color_dark="#e6e8ec",
        block_label_text_color="#565b65",
        block_label_text_color_dark="#a3a9b5",
        block_title_text_color="#565b65",
        block_title_text_color_dark="#a3a9b5",
        block_info_text_color="#565b65",
        block_info_text_color_dark="#a3a9b5",
        input_border_width="1px",
        input_background_fill="#fff",
        input_background_fill_dark="#14161b",
        input_border_color="#d5d8de",
        input_border_color_dark="#363b45",
    )


__all__ = ["CHOOSE", "CSS", "DROP", "FOOTER", "HEAD", "HEADER", "theme"]
