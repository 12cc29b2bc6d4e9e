import { type Logger, pino } from 'pino';

export type { Logger };

/**
 * JSON lines on standard error (standard output belongs to a command's answer). Secrets, tokens and addresses are
 * redacted wherever they appear under these names.
 */
export function createLogger(options: { level: string; name: string }): Logger {
  return pino(
    {
      name: options.name,
      level: options.level,
      redact: {
        paths: ['token', '*.token', 'authorization', '*.authorization', 'secret', '*.secret', 'password', '*.password'],
        censor: '[redacted]',
      },
      timestamp: pino.stdTimeFunctions.isoTime,
    },
    pino.destination({ fd: 2, sync: true }),
  );
}
