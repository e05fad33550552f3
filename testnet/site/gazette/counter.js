// Counts a visit, as so many pages do. A page packed without scripts never runs this.
document.documentElement.dataset.counted = "yes";
new Image().src = "/dot.gif?counted";
