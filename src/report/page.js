(() => {
  const scale = (text) => text.split(',').map(Number);
  const valueAt = (place, [low, high, log]) =>
    log ? low * (high / low) ** place : low + place * (high - low);
  const percent = (x) => `p${(100 - 100 * 10 ** -x).toFixed(Math.max(1, Math.ceil(x) - 1))}`;
  const number = (value) => value.toLocaleString('en-US', { maximumSignificantDigits: 4 });
  const pointsOf = (path) =>
    path.getAttribute('d').split(/[ML]/).slice(1).map((pair) => pair.split(' ').map(Number));
  const nearest = (points, x) =>
    points.reduce((best, point) => (Math.abs(point[0] - x) < Math.abs(best[0] - x) ? point : best));
  const row = (left, right) => {
    const line = document.createElement('p');
    for (const words of [left, right]) {
      line.append(Object.assign(document.createElement('span'), { textContent: words }));
    }
    return line;
  };

  const tip = Object.assign(document.createElement('div'), { className: 'tip', hidden: true });
  const cursor = document.createElementNS(document.querySelector('svg').namespaceURI, 'path');
  cursor.setAttribute('class', 'cursor');
  let drawn = 0;
  for (const figure of document.querySelectorAll('figure')) {
    const svg = figure.querySelector('svg');
    const paths = [...svg.querySelectorAll('.l')];
    const lines = paths.map(pointsOf);
    const [left, top, right, bottom] = scale(figure.dataset.frame);
    const [xs, ys] = [scale(figure.dataset.x), scale(figure.dataset.y)];
    const unit = /\((.*)\)$/.exec(svg.querySelector('.u').textContent)[1];
    for (const button of figure.querySelectorAll('button')) {
      button.addEventListener('click', () => {
        const off = paths[button.dataset.l].classList.toggle('off');
        button.setAttribute('aria-pressed', String(!off));
      });
    }
    svg.addEventListener('pointermove', (event) => {
      const box = svg.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
      if (x < left || x > right) return leave();
      const place = (x - left) / (right - left);
      const at = valueAt(place, xs);
      tip.replaceChildren(row(figure.dataset.kind === 'time' ? `${number(at)} ${unit}` : percent(at), ''));
      paths.forEach((path, index) => {
        if (path.classList.contains('off')) return;
        const height = (bottom - nearest(lines[index], x)[1]) / (bottom - top);
        // What lies at the low end of a logarithmic axis may lie below it.
        const sign = ys[2] && height < 0.001 ? '\u2264 ' : '';
        tip.append(row(path.dataset.n, sign + number(valueAt(height, ys))));
      });
      cursor.setAttribute('d', `M${x} ${top}V${bottom}`);
      svg.append(cursor);
      tip.hidden = false;
      figure.append(tip);
      const beside = event.clientX - figure.getBoundingClientRect().left + 16;
      const room = figure.clientWidth - tip.offsetWidth - 8;
      tip.style.left = `${beside > room ? Math.max(8, beside - tip.offsetWidth - 32) : beside}px`;
      tip.style.top = '44px';
    });
    const leave = () => { tip.hidden = true; cursor.remove(); };
    svg.addEventListener('pointerleave', leave);
    if (lines.length && lines.every((line) => line.length && line.flat().every(Number.isFinite))) drawn += 1;
  }
  document.documentElement.dataset.drawn = drawn;
})();
