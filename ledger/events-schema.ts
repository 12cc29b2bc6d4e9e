/** The public events' JSON Schema as a file for shops: `node ledger/events-schema.ts` writes it (npm run generate). */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { BatchSchema } from './events.ts';

/** Where the schema is published. */
export const eventsSchemaFile = join(import.meta.dirname, '../docs/reference/events.schema.json');

/** The schema's text: JSON Schema 2020-12 of one message of the topic. */
export function eventsSchemaText(): string {
  const schema = {
    $schema: 'https://json-schema.org/draft/2020-12/schema',
    $id: 'urn:stampede:schema:events:1',
    title: 'A batch of Stampede events: one message of the topic',
    ...BatchSchema,
  };
  return `${JSON.stringify(schema, null, 2)}\n`;
}

if (import.meta.main) writeFileSync(eventsSchemaFile, eventsSchemaText());
