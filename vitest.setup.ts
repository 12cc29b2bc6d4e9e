/** The same tests each time: what fast-check draws comes from one seed, unless FAST_CHECK_SEED says another. */
import fc from 'fast-check';

fc.configureGlobal({ seed: Number(process.env.FAST_CHECK_SEED ?? 1) });
