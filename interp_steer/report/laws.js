/*
 * The three laws on projections, as interp_steer.specs.resolve and interventions.move have them:
 *
 *   r      = sign * rho                                   (sign -1 for the reversed direction)
 *   fired  = r < gate
 *   shift  = sign * min(offset + gain * (pivot - r), cap - r)   where fired, 0 elsewhere
 *
 * Pure arithmetic on numbers; tests compare it with Python in a real browser.
 */

/** Decode base64 of little-endian float32. */
function decodeFloats(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Float32Array.from({ length: bytes.length / 4 }, (_, i) => view.getFloat32(4 * i, true));
}

/** Mean and spread that a target and a cap are counted from, in the coordinates sign * rho. */
function anchorOf(probe, direction) {
  return direction === 'reversed'
    ? { sign: -1, centre: -probe.mu_neg, spread: probe.sigma_neg }
    : { sign: 1, centre: probe.mu_pos, spread: probe.sigma_pos };
}

/**
 * The law of one method at one layer.
 *
 * `asked` holds method, alpha, direction ('aligned' by default) and threshold (in the coordinates
 * of v_hat; null for the probe's boundary). The result also carries threshold, target and limit (the
 * cap) in those coordinates, null where the method has none.
 */
function lawOf(probe, asked, capSigmas) {
  const { sign, centre, spread } = anchorOf(probe, asked.direction);
  const none = { sign, cap: Infinity, threshold: null, target: null, limit: null };
  if (asked.method === 'swfc') {
    return { ...none, gate: Infinity, gain: 0, pivot: 0, offset: asked.alpha * probe.delta_mu };
  }
  const threshold = asked.threshold ?? probe.boundary;
  const gated = { ...none, gate: sign * threshold, offset: 0, threshold };
  if (asked.method === 'sttp') {
    const target = centre + asked.alpha * spread;
    return { ...gated, gain: 1, pivot: target, target: sign * target };
  }
  const cap = centre + capSigmas * spread;
  return { ...gated, gain: 2 * asked.alpha, pivot: gated.gate, cap, limit: sign * cap };
}

/** The coefficient whose StTP target is `target`: alpha = (s - mu+) / sigma+. */
function alphaOfTarget(probe, target, direction) {
  const { sign, centre, spread } = anchorOf(probe, direction);
  return (sign * target - centre) / spread;
}

/** Why the library would refuse what is asked, in words; null where it would not. */
function refusalOf(probe, asked, capSigmas) {
  if (!Number.isFinite(asked.alpha)) return 'α must be a number';
  if (asked.threshold !== null && !Number.isFinite(asked.threshold)) {
    return 'the boundary must be a number';
  }
  if (asked.alpha < 0 && asked.method !== 'sttp') {
    return 'α must not be negative for this method; to steer away from the trait reverse the direction';
  }
  const law = lawOf(probe, asked, capSigmas);
  return law.cap < law.gate && asked.method === 'stmp'
    ? `the boundary lies beyond the cap ${spelled(law.limit)}, which would pull tokens back`
    : null;
}

/** What a law does to one projection. */
function moveOf(law, rho) {
  const placed = law.sign * rho;
  if (!(placed < law.gate)) return { shift: 0, fired: false, capped: false };
  const room = law.cap - placed;
  const wanted = law.offset + law.gain * (law.pivot - placed);
  return { shift: law.sign * Math.min(wanted, room), fired: true, capped: wanted > room };
}

/**
 * What a law does to sets of projections, each {n, values}: values stand for n tokens equally.
 *
 * Returns n, the shares that fire and are capped, and the mean |rho' - rho| over all and over fired
 * tokens (null where there are none).
 */
function effectsOf(law, sets) {
  const sum = { n: 0, fired: 0, capped: 0, moved: 0 };
  for (const { n, values } of sets) {
    const weight = values.length ? n / values.length : 0;
    sum.n += n;
    for (const rho of values) {
      const move = moveOf(law, rho);
      if (!move.fired) continue;
      sum.fired += weight;
      sum.moved += weight * Math.abs(move.shift);
      if (move.capped) sum.capped += weight;
    }
  }
  const over = (total, n) => (n > 0 ? total / n : null);
  return {
    n: sum.n,
    nFired: sum.fired,
    firedShare: over(sum.fired, sum.n),
    cappedShare: over(sum.capped, sum.n),
    meanMove: over(sum.moved, sum.n),
    meanMoveFired: over(sum.moved, sum.fired),
  };
}

/** A number for people: `digits` significant digits, a true minus sign, an en dash for none. */
function spelled(value, digits = 4) {
  if (value === null || value === undefined || !Number.isFinite(value)) return '–';
  const size = Math.abs(value);
  const text =
    size !== 0 && (size < 1e-4 || size >= 1e6)
      ? value.toExponential(digits - 1)
      : String(Number(value.toPrecision(digits)));
  return text.replace(/-/g, '−');
}

/** A share as per cent. */
function percent(share) {
  return share === null ? '–' : `${spelled(100 * share, 3)} %`;
}
