/** Pictures of a run: bars of contenders, and lines over time, as SVG that stands alone. */
import * as echarts from 'echarts';
import type { Figure, Plot } from './scenario.ts';

const size = { width: 820, height: 60 };
const barHeight = 34;
const ink = '#24292f';
const quiet = '#6e7781';
const [own, others] = ['#0b6e4f', '#9aa5b1'];

/** One bar a contender, the fastest first, with its spread; Stampede's stands out. `figures` are of one unit. */
export function barsOf(title: string, figures: readonly Figure[]): string {
  const sorted = figures.toSorted((a, b) => a.value.median - b.value.median);
  const height = size.height * 2 + sorted.length * barHeight;
  const chart = echarts.init(null, null, { renderer: 'svg', ssr: true, width: size.width, height });
  chart.setOption({
    animation: false,
    backgroundColor: '#ffffff',
    title: { text: title, left: 12, top: 10, textStyle: { fontSize: 15, color: ink } },
    grid: { left: 250, right: 110, top: 52, bottom: 36 },
    xAxis: { type: 'value', axisLabel: { color: quiet, formatter: (value: number) => value.toLocaleString('en-GB') } },
    yAxis: { type: 'category', data: sorted.map(({ what }) => what), axisLabel: { color: ink, fontSize: 13 } },
    series: [
      {
        type: 'bar',
        barWidth: 18,
        data: sorted.map(({ what, value }) => ({
          value: value.median,
          itemStyle: { color: what.startsWith('stampede') ? own : others },
        })),
      },
      {
        // Least to most over the rounds, as a thin line on each bar, and after it the median.
        type: 'custom',
        renderItem: (_: unknown, api: SpreadApi) => {
          const at = api.value(0);
          const [from, y] = api.coord([api.value(1), at]);
          const [to] = api.coord([api.value(2), at]);
          const line = {
            type: 'line',
            shape: { x1: from, x2: to, y1: y, y2: y },
            style: { stroke: ink, lineWidth: 2 },
          };
          const text = Math.round(api.value(3)).toLocaleString('en-GB');
          const label = {
            type: 'text',
            x: to + 8,
            y,
            style: { text, fill: ink, fontSize: 13, verticalAlign: 'middle' },
          };
          return { type: 'group', children: [line, label] };
        },
        data: sorted.map(({ value }, i) => [i, value.min, value.max, value.median]),
        encode: { x: [1, 2], y: 0 },
      },
    ],
  } as unknown as echarts.EChartsCoreOption);
  return svgOf(chart);
}

type SpreadApi = { value(place: number): number; coord(point: [number, number]): [x: number, y: number] };

export function linesOf({ title, x, y, lines }: Plot): string {
  const chart = echarts.init(null, null, { renderer: 'svg', ssr: true, width: size.width, height: 380 });
  chart.setOption({
    animation: false,
    backgroundColor: '#ffffff',
    title: { text: title, left: 12, top: 10, textStyle: { fontSize: 15, color: ink } },
    legend: { top: 12, right: 16, textStyle: { color: ink } },
    grid: { left: 86, right: 26, top: 56, bottom: 52 },
    xAxis: { type: 'value', name: x, nameLocation: 'middle', nameGap: 30, axisLabel: { color: quiet } },
    yAxis: { type: 'value', name: y, axisLabel: { color: quiet } },
    series: lines.map(({ name, points }) => ({ name, type: 'line', showSymbol: false, data: points })),
  } as unknown as echarts.EChartsCoreOption);
  return svgOf(chart);
}

function svgOf(chart: echarts.ECharts): string {
  const svg = chart.renderToSVGString();
  chart.dispose();
  return `${svg}\n`;
}
