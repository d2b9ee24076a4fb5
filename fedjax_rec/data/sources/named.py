"""Data sets that papers name: how large they are, whose, on which terms, and how to come by them.

None of them comes with this library, and none is fetched by it but ml-100k (`fetch`): most sources
ask for a form, an account or a citation. Sizes are those that RecBole publishes for its atomic
files (github.com/RUCAIBox/RecSysDatasets); a file of other filters has others.
"""

from __future__ import annotations

from typing import NamedTuple

UNSAID = "not recorded here: read what its source asks for before use, and cite"


class Named(NamedTuple):
    """A data set by its name among RecBole's atomic files. interactions: before any filter."""

    about: str
    users: int
    items: int
    interactions: int
    home: str
    terms: str
    cite: str


_AMAZON = (
    "http://jmcauley.ucsd.edu/data/amazon/", UNSAID,
    "R. He and J. McAuley, Ups and Downs: Modeling the Visual Evolution of Fashion Trends with "
    "One-Class Collaborative Filtering, WWW 2016",
)  # fmt: skip
_YELP = (
    "https://www.yelp.com/dataset",
    "the Yelp Dataset License, agreed to before the download: academic use, no redistribution",
    "Yelp Open Dataset, https://www.yelp.com/dataset",
)
_FOURSQUARE = (
    "https://sites.google.com/site/yangdingqi/home/foursquare-dataset", UNSAID,
    "D. Yang, D. Zhang, V. W. Zheng and Z. Yu, Modeling User Activity Preference by Leveraging "
    "User Spatial Temporal Characteristics in LBSNs, IEEE Trans. SMC: Systems 45(1), 2015",
)  # fmt: skip

NAMED: dict[str, Named] = {
    "amazon-apps-for-android": Named("app reviews", 1_323_884, 61_275, 2_638_172, *_AMAZON),
    "amazon-baby": Named("reviews of baby products", 531_890, 64_426, 915_446, *_AMAZON),
    "amazon-beauty": Named("reviews of beauty products", 1_210_271, 249_274, 2_023_070, *_AMAZON),
    "amazon-books": Named("book reviews", 8_026_324, 2_330_066, 22_507_155, *_AMAZON),
    "amazon-clothing-shoes-jewelry": Named(
        "reviews of clothing, shoes and jewelry", 3_117_268, 1_136_004, 5_748_920, *_AMAZON
    ),
    "amazon-digital-music": Named("music reviews", 478_235, 266_414, 836_006, *_AMAZON),
    "amazon-electronics": Named("reviews of electronics", 4_201_696, 476_002, 7_824_482, *_AMAZON),
    "amazon-grocery-gourmet-food": Named("food reviews", 768_438, 166_049, 1_297_156, *_AMAZON),
    "amazon-instant-video": Named("video reviews", 426_922, 23_965, 583_933, *_AMAZON),
    "amazon-kindle-store": Named("reviews of e-books", 1_406_890, 430_530, 3_205_467, *_AMAZON),
    "amazon-movies-tv": Named("reviews of films and TV", 2_088_620, 200_941, 4_607_047, *_AMAZON),
    "amazon-musical-instruments": Named(
        "reviews of instruments", 339_231, 83_046, 500_176, *_AMAZON
    ),
    "amazon-office-products": Named("office wares", 909_314, 130_006, 1_243_186, *_AMAZON),
    "amazon-sports-outdoors": Named("sports wares", 1_990_521, 478_898, 3_268_695, *_AMAZON),
    "amazon-toys-games": Named("toy reviews", 1_342_911, 327_698, 2_252_771, *_AMAZON),
    "amazon-video-games": Named("game reviews", 826_767, 50_210, 1_324_753, *_AMAZON),
    "anime": Named(
        "ratings of anime at MyAnimeList", 73_515, 11_200, 7_813_737,
        "https://www.kaggle.com/CooperUnion/anime-recommendations-database", UNSAID,
        "CooperUnion, Anime Recommendations Database, Kaggle, 2016",
    ),
    "book-crossing": Named(
        "book ratings, 0 to 10 and implicit; their site is gone", 105_284, 340_557, 1_149_780,
        "http://www2.informatik.uni-freiburg.de/~cziegler/BX/", UNSAID,
        "C.-N. Ziegler, S. M. McNee, J. A. Konstan and G. Lausen, Improving Recommendation Lists "
        "Through Topic Diversification, WWW 2005",
    ),
    "diginetica": Named(
        "clicks of sessions in a shop", 204_789, 184_047, 993_483,
        "https://competitions.codalab.org/competitions/11161", UNSAID, "CIKM Cup 2016, Track 2",
    ),
    "douban": Named(
        "short comments on 28 films at Douban", 738_701, 28, 2_125_056,
        "https://www.kaggle.com/utmhikari/doubanmovieshortcomments", UNSAID,
        "utmhikari, Douban Movie Short Comments Dataset, Kaggle",
    ),
    "epinions": Named(
        "product ratings, with who trusts whom", 116_260, 41_269, 188_478,
        "https://cseweb.ucsd.edu/~jmcauley/datasets.html#social_data", UNSAID,
        "T. Zhao, J. McAuley and I. King, Leveraging Social Connections to Improve Personalized "
        "Ranking for Collaborative Filtering, CIKM 2014",
    ),
    "filmtrust": Named(
        "film ratings, with who trusts whom", 1_508, 2_071, 35_497,
        "https://guoguibing.github.io/librec/datasets.html", UNSAID,
        "G. Guo, J. Zhang and N. Yorke-Smith, A Novel Bayesian Similarity Measure for Recommender "
        "Systems, IJCAI 2013",
    ),
    "foursquare-nyc": Named("check-ins in New York", 1_083, 38_333, 227_428, *_FOURSQUARE),
    "foursquare-tky": Named("check-ins in Tokyo", 2_293, 61_858, 537_703, *_FOURSQUARE),
    "gowalla": Named(
        "check-ins, with friends", 107_092, 1_280_969, 6_442_892,
        "https://snap.stanford.edu/data/loc-gowalla.html", UNSAID,
        "E. Cho, S. A. Myers and J. Leskovec, Friendship and Mobility: User Movement in "
        "Location-Based Social Networks, KDD 2011",
    ),
    "jester": Named(
        "ratings of jokes, -10 to 10", 73_421, 101, 4_136_360,
        "http://eigentaste.berkeley.edu/dataset/",
        "free for research that acknowledges it (goldberg.berkeley.edu/jester-data)",
        "K. Goldberg, T. Roeder, D. Gupta and C. Perkins, Eigentaste: A Constant Time "
        "Collaborative Filtering Algorithm, Information Retrieval 4(2), 2001",
    ),
    "lastfm": Named(
        "artists that users of Last.fm listen to (HetRec 2011)", 1_892, 17_632, 92_834,
        "https://grouplens.org/datasets/hetrec-2011/", UNSAID,
        "I. Cantador, P. Brusilovsky and T. Kuflik, 2nd Workshop on Information Heterogeneity and "
        "Fusion in Recommender Systems (HetRec 2011), RecSys 2011",
    ),
    "lfm-1b": Named(
        "listening events of Last.fm", 120_322, 3_123_496, 1_088_161_692,
        "http://www.cp.jku.at/datasets/LFM-1b/", UNSAID,
        "M. Schedl, The LFM-1b Dataset for Music Retrieval and Recommendation, ICMR 2016",
    ),
    "netflix": Named(
        "film ratings of the Netflix Prize", 480_189, 17_770, 100_480_507,
        "https://www.kaggle.com/netflix-inc/netflix-prize-data",
        "its README: research that acknowledges it, no redistribution, no commercial use",
        "J. Bennett and S. Lanning, The Netflix Prize, KDD Cup and Workshop 2007",
    ),
    "pinterest": Named(
        "pins of images, as of the NCF paper", 55_187, 9_911, 1_445_622,
        "https://github.com/hexiangnan/neural_collaborative_filtering", UNSAID,
        "X. He, L. Liao, H. Zhang, L. Nie, X. Hu and T.-S. Chua, Neural Collaborative Filtering, "
        "WWW 2017",
    ),
    "retailrocket": Named(
        "views, baskets and purchases of a shop", 1_407_580, 247_085, 2_756_101,
        "https://www.kaggle.com/retailrocket/ecommerce-dataset", UNSAID,
        "Retailrocket, Recommender System Dataset, Kaggle, 2017",
    ),
    "steam": Named(
        "game reviews at Steam", 2_567_538, 32_135, 7_793_069,
        "https://github.com/kang205/SASRec", UNSAID,
        "W.-C. Kang and J. McAuley, Self-Attentive Sequential Recommendation, ICDM 2018",
    ),
    "ta-feng": Named(
        "purchases in a grocery", 32_266, 23_812, 817_741,
        "https://www.kaggle.com/chiranjivdas09/ta-feng-grocery-dataset", UNSAID,
        "C.-N. Hsu, H.-H. Chung and H.-S. Huang, Mining Skewed and Sparse Transaction Data for "
        "Personalized Shopping Recommendation, Machine Learning 57, 2004",
    ),
    "tmall": Named(
        "clicks and purchases, IJCAI 2016", 963_923, 2_353_207, 44_528_127,
        "https://tianchi.aliyun.com/dataset/dataDetail?dataId=53", UNSAID,
        "Ant Financial and Tianchi, IJCAI-16 Brick-and-Mortar Store Recommendation Dataset",
    ),
    "yelp2018": Named("reviews of the first version", 1_326_101, 174_567, 5_261_669, *_YELP),
    "yelp2020": Named("reviews of the second version", 1_968_703, 209_393, 8_021_122, *_YELP),
    "yelp2021": Named("reviews of the third version", 2_189_457, 160_585, 8_635_403, *_YELP),
    "yelp2022": Named("reviews of the fourth version", 1_987_929, 150_346, 6_990_280, *_YELP),
    "yoochoose": Named(
        "clicks and purchases of sessions", 9_249_729, 52_739, 34_154_697,
        "https://2015.recsyschallenge.com/challenge.html",
        "CC BY-NC-ND 4.0 (recsys.yoochoose.net/rules.html)",
        "D. Ben-Shimon et al., RecSys Challenge 2015 and the YOOCHOOSE Dataset, RecSys 2015",
    ),
}  # fmt: skip
