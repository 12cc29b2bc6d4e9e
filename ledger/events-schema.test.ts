import { readFileSync } from 'node:fs';
import { Ajv2020 } from 'ajv/dist/2020.js';
import formatsPlugin from 'ajv-formats';
import { describe, expect, it } from 'vitest';
import { eventsSchemaFile, eventsSchemaText } from './events-schema.ts';

const published = readFileSync(eventsSchemaFile, 'utf8');
const page = readFileSync(eventsSchemaFile.replace('.schema.json', '.md'), 'utf8');

describe('the published schema of the events', () => {
  it('is in step with the code (npm run generate)', () => {
    expect(JSON.parse(published)).toEqual(JSON.parse(eventsSchemaText()));
  });

  const ajv = new Ajv2020({ strict: true, allErrors: true });
  formatsPlugin.default(ajv);
  const validate = ajv.compile(JSON.parse(published));
  const batches = [...page.matchAll(/```json\n([\s\S]*?)\n```/g)].map((match) => JSON.parse(match[1] ?? ''));

  it('accepts every example of its page', () => {
    for (const batch of batches) expect(validate(batch), JSON.stringify(validate.errors)).toBe(true);
  });

  it('its page has an example of every type of event', () => {
    const shown = new Set(batches.flatMap((batch) => batch.events.map((event: { type: string }) => event.type)));
    const { properties } = JSON.parse(published) as {
      properties: { events: { items: { anyOf: { properties: { type: { const: string } } }[] } } };
    };
    expect([...shown].sort()).toEqual(properties.events.items.anyOf.map((one) => one.properties.type.const).sort());
  });

  it.each([{ format: 2 }, { events: [] }, { seqFirst: 0 }])('refuses a batch with %j', (wrong) => {
    expect(validate({ ...batches[0], ...wrong })).toBe(false);
  });
});
