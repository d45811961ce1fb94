"""The look of the pages, beside what Gradio gives them."""

STYLE = """
.banner {background: #7a1f1f; padding: .6em 1em; border-radius: 6px}
.banner * {color: white}
.gradio-container {max-width: 1280px !important}
#heading h2 {margin: 0 0 .5em; font-size: 1.5em; overflow-wrap: anywhere}
#heading .state {font-size: .55em; font-weight: 600; padding: .25em .8em; border-radius: 1em; color: white;
  background: #6b7280; vertical-align: middle; white-space: nowrap}
#heading .training, #heading .starting {background: #1f6f8b}
#heading .finished {background: #2f7d4f}
#heading .silent, #heading .stopped {background: #b4531f}
#heading .bar {height: 8px; border-radius: 4px; overflow: hidden; background: var(--border-color-primary)}
#heading .bar div {height: 100%; transition: width .5s}
#heading p {margin: .5em 0}
#heading dl {display: grid; grid-template-columns: max-content 1fr; gap: .15em 1em; margin: .6em 0 0}
#heading dt {opacity: .7}
#heading dd {margin: 0; overflow-wrap: anywhere}
#heading pre, #recipe pre {white-space: pre-wrap; overflow-wrap: anywhere; padding: .6em; border-radius: 6px;
  background: var(--background-fill-secondary)}
#folders .wrap {gap: 4px}
#folders label {width: 100%}
#curves .curves {display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); gap: 12px}
#curves img {width: 100%; border: 1px solid var(--border-color-primary); border-radius: 6px; background: white}
#report {max-width: 62em}
#report h3 {margin: 1.2em 0 .4em}
#report .verdict {font-weight: 600}
#report .note {opacity: .7; font-size: .9em}
#report .warning {border-left: 4px solid #b4531f; padding: .3em .8em}
#report div {overflow-x: auto; margin: .6em 0}
#report :is(thead, tbody, tr) {border: none}
#report table {border: none; border-collapse: collapse; font-variant-numeric: tabular-nums}
#report :is(th, td) {border: none; border-bottom: 1px solid var(--border-color-primary); padding: .3em .8em;
  text-align: right; white-space: nowrap}
#report :is(th, td):first-child {text-align: left; padding-left: 0}
#report figure {margin: 1em 0}
#report img {max-width: 100%}
#report figcaption {opacity: .7; font-size: .9em}
@media (max-width: 640px) {
  #folders .wrap {max-height: 13em; overflow-y: auto; flex-wrap: nowrap; flex-direction: column}
  #report .photographs {max-width: none; width: 640px}
}
"""
