// Lists text whose contrast with its background is below WCAG AA: 4.5, or 3 where it is large.
() => {
    const parse = (color) => {
        const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = color;
        canvas.fillRect(0, 0, 1, 1);
        const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
        return [r, g, b, a / 255];
    };
    const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3]));
    const luminance = (color) => {
        const [r, g, b] = color.map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const backgroundOf = (node) => {
        const layers = [];
        for (let one = node; one; one = one.parentElement) layers.push(parse(getComputedStyle(one).backgroundColor));
        return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
    };
    const found = new Set(), walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const node = walker.currentNode.parentElement, text = walker.currentNode.data.trim();
        const isShown = text && node.checkVisibility({ visibilityProperty: true, opacityProperty: true });
        // Text over a spectrogram has a shadow in place of a background.
        if (!isShown || node.closest("script, style, .sc-decibels")) continue;
        const style = getComputedStyle(node), background = backgroundOf(node);
        let opacity = 1;
        for (let one = node; one; one = one.parentElement) opacity *= getComputedStyle(one).opacity;
        const [r, g, b, a] = parse(style.color);
        const inks = [over([r, g, b, a * opacity], background), background];
        const [light, dark] = inks.map(luminance).sort((x, y) => y - x);
        const size = parseFloat(style.fontSize), isLarge = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
        const ratio = (light + 0.05) / (dark + 0.05);
        if (ratio < (isLarge ? 3 : 4.5)) {
            found.add(`${ratio.toFixed(2)} ${node.className || node.tagName}: ${text.slice(0, 40)}`);
        }
    }
    return [...found];
}
