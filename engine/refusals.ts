/** What it means to whoever asked that a call to a shard failed. */
import { RefusalError, refusal } from '../kernel/errors.ts';
import { unknown } from './batcher.ts';
import { wasElsewhere } from './valkey.ts';

export const away = refusal('unavailable', 'The stock cannot be reached. Try again with the same key.');
export const fenced = refusal('shard-fenced', 'This part of the stock is fenced. Try again later.');
const overloaded = refusal('overloaded', 'Too much is going on. Nothing was taken; try again shortly.');

/** It was done, and what the sale promises isn't so yet, or not known to be. */
export const unsafe = (why: string) =>
  refusal(
    'unavailable',
    `It is done, but not yet as safe as the sale promises. ${why} Ask again: it is safe, and tells.`,
  );

const says = (error: unknown, word: string): boolean => error instanceof Error && error.message.startsWith(word);

/** Whether the function refused because of the epoch, or of a sequence that it should have. */
export const isFenced = (error: unknown): boolean => says(error, 'FENCED');
/** Whether nothing was done, for certain. */
export const isRefused = (error: unknown): boolean =>
  isFenced(error) || says(error, 'LATE') || says(error, 'OOM') || wasElsewhere(error);

export function refusalOfCall(error: unknown): RefusalError {
  if (isFenced(error)) return new RefusalError(fenced);
  if (wasElsewhere(error)) return new RefusalError(away);
  return new RefusalError(isRefused(error) ? overloaded : unknown);
}
