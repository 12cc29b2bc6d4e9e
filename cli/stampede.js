#!/usr/bin/env node
import { runOnNode24 } from './find-node.js';

await runOnNode24(new URL('./main.ts', import.meta.url));
