/** How old a `sold-out` may be: an engine may answer it from what it just learnt. */
export const staleMs = 100;
