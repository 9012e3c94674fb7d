"""The frame of the HTML report."""

from string import Template

PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>pylayers bench</title>
<style>
  :root { color-scheme: light; --ink: #212529; --soft: #6c757d; --line: #e9ecef; }
  :root { --good: #2b8a3e; --bad: #c92a2a; --mark: #d9480f; }
  * { box-sizing: border-box; }
  body { margin: 0; background: #fff; color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", sans-serif; }
  main { max-width: 1240px; margin: 0 auto; padding: 28px 20px 60px; }
  h1 { margin: 0; font-size: 28px; letter-spacing: -0.01em; }
  h2 { margin: 44px 0 8px; font-size: 20px; }
  p { max-width: 78ch; margin: 6px 0 12px; }
  .lead, .note, section > p { color: var(--soft); }
  .note { font-size: 13px; }
  .warning { padding: 10px 14px; border-left: 4px solid #f08c00; background: #fff9db; color: #5c3c00; }
  .cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(170px, 1fr)); gap: 12px; margin: 22px 0; }
  .card { padding: 14px 16px; border: 1px solid var(--line); border-radius: 10px; }
  .card b { display: block; font-size: 26px; line-height: 1.2; color: var(--mark); }
  .card span { color: var(--soft); font-size: 13px; }
  .plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 500px), 1fr)); gap: 16px; }
  .plot { min-width: 0; overflow: hidden; }
  .scroll { overflow-x: auto; }
  table { border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums; }
  th { padding: 6px 12px 6px 0; border-bottom: 2px solid var(--ink); text-align: left; vertical-align: bottom; }
  td { padding: 5px 12px 5px 0; border-bottom: 1px solid var(--line); vertical-align: top; white-space: nowrap; }
  section:first-of-type td:last-child { white-space: normal; } /* what was measured of a target, in words */
  td small { display: block; color: var(--soft); font-size: 11px; }
  .good { color: var(--good); font-weight: 600; }
  .bad { color: var(--bad); font-weight: 600; }
  .muted { color: var(--soft); }
  .headline { font-weight: 700; }
  details { margin: 8px 0; color: var(--soft); font-size: 13px; }
  dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 14px; margin: 8px 0; }
  dt { font-weight: 600; }
  dd { margin: 0; overflow-wrap: anywhere; }
</style>
$plotly
</head>
<body>
<main>
<h1>pylayers bench</h1>
<p class="lead">$machine</p>
<details><summary>All about this machine and run</summary><dl>$facts</dl></details>
$warnings
$no_plots
<div class="cards">$cards</div>
$sections
</main>
<script>
  for (const plot of document.querySelectorAll(".js-plotly-plot"))
    new ResizeObserver(() => Plotly.Plots.resize(plot)).observe(plot.closest(".plot"));
</script>
</body>
</html>
""")
