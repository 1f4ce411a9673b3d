// Live update and keyboard. Without it the page works, by reloading.
'use strict';

const live = document.querySelector('[data-live]');
const parser = new DOMParser();

function cards() {
  return [...document.querySelectorAll('.card')];
}

function selected() {
  return document.querySelector('.card.selected');
}

function select(card) {
  if (!card) return;
  for (const other of cards()) other.classList.toggle('selected', other === card);
  card.focus({ preventScroll: true });
  card.scrollIntoView({ block: 'nearest' });
}

function move(step) {
  const all = cards();
  const at = all.indexOf(selected());
  select(all[Math.min(Math.max(at + step, 0), all.length - 1)]);
}

// One request at a time; what comes meanwhile asks once more.
let busy = false;
let again = false;
async function refresh() {
  if (!live) return;
  if (busy) {
    again = true;
    return;
  }
  busy = true;
  try {
    const answer = await fetch(live.dataset.live, { credentials: 'same-origin', cache: 'no-store' });
    if (answer.status === 401) {
      location.reload();
      return;
    }
    if (answer.ok) show(await answer.text());
  } catch {
    // The stream comes back by itself, and asks again then.
  } finally {
    busy = false;
    if (again) {
      again = false;
      refresh();
    }
  }
}

function show(text) {
  const kept = selected()?.dataset.id;
  const settled = live.querySelector('[data-settled]')?.dataset.settled;
  live.replaceChildren(...parser.parseFromString(text, 'text/html').body.childNodes);
  const now = live.querySelector('[data-settled]')?.dataset.settled;
  // Other forms belong to it then.
  if (settled !== now) location.reload();
  if (kept) select(cards().find((card) => card.dataset.id === kept));
  arm();
}

function span(milliseconds) {
  const s = Math.floor(milliseconds / 1000);
  const [d, h, m] = [Math.floor(s / 86400), Math.floor(s / 3600) % 24, Math.floor(s / 60) % 60];
  if (d) return `${d}d ${h}h`;
  if (h) return `${h}h ${m}m`;
  return m ? `${m}m ${s % 60}s` : `${s}s`;
}

// When each countdown ends, by this browser's own clock.
const ends = new WeakMap();
function arm() {
  for (const time of document.querySelectorAll('[data-left]')) {
    if (!ends.has(time)) ends.set(time, performance.now() + Number(time.dataset.left));
  }
}

function count() {
  for (const time of document.querySelectorAll('[data-left]')) {
    const left = Math.max(0, (ends.get(time) ?? 0) - performance.now());
    time.textContent = `${span(left)} left`;
    time.classList.toggle('soon', left < 60000);
  }
}

// On a request's own page: to the form. In the inbox: to the page, and there to the form.
function decide(answer) {
  const form = document.getElementById(answer);
  if (form) {
    form.querySelector('[name=reason]').focus();
    return;
  }
  if (answer === 'approve' && document.getElementById('step-up')) {
    document.querySelector('#step-up button').focus();
    return;
  }
  const open = selected()?.querySelector('a.open');
  if (open) location.href = `${open.getAttribute('href')}#${answer}`;
}

const HELP = 'j k: next, previous · Enter: open · a: approve · d: deny · u: inbox · ?: this. Enter sends a form.';
function help() {
  const shown = document.getElementById('help');
  if (shown) {
    shown.remove();
    return;
  }
  const text = document.createElement('p');
  text.id = 'help';
  text.textContent = HELP;
  document.querySelector('main').prepend(text);
}

document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.closest('input, select, textarea');
  if (typing) {
    if (event.key === 'Escape') event.target.blur();
    return;
  }
  const open = selected()?.querySelector('a.open');
  const keys = {
    j: () => move(1),
    k: () => move(-1),
    a: () => decide('approve'),
    d: () => decide('deny'),
    u: () => location.assign('/'),
    '?': help,
  };
  if (event.key === 'Enter' && open && !event.target.closest('a, button')) open.click();
  else if (keys[event.key]) keys[event.key]();
  else return;
  event.preventDefault();
});

if (live) {
  const source = new EventSource('/events');
  source.addEventListener('open', refresh);
  source.addEventListener('approval', (event) => {
    const id = live.dataset.id;
    if (!id || event.data === id || event.data === 'all') refresh();
  });
  arm();
  setInterval(count, 1000);
}
if (location.hash === '#approve' || location.hash === '#deny') decide(location.hash.slice(1));
