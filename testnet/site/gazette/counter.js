// Counts a visit, as so many pages do. A page packed without scripts never runs this.
document.documentElement.dataset.counted = "yes";
for (const image of document.querySelectorAll("img[data-src]")) image.src = image.dataset.src;
new Image().src = "/dot.gif?counted";
