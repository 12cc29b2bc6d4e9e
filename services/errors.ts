import { SetupError } from '../kernel/errors.ts';

/** Why a service could not be had; stable, for programs. */
export type ServiceErrorCode =
  /** nothing to run it from: the message says what to install */
  | 'service-missing'
  /** found, but it did not start or did not answer in time */
  | 'service-failed'
  /** a call named a service that this set does not run itself */
  | 'service-not-ours'
  /** the data folder cannot be used */
  | 'data-folder-unusable';

/** An error of `services/`: a stable code, and one line for a person that says what to do. */
export class ServiceError extends SetupError {
  declare readonly code: ServiceErrorCode;

  constructor(code: ServiceErrorCode, message: string) {
    super(code, message);
    this.name = 'ServiceError';
  }
}

/** The text of whatever was thrown. */
export function reasonOf(thrown: unknown): string {
  return thrown instanceof Error ? thrown.message : String(thrown);
}
